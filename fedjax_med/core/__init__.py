"""A federated round as pure functions: algorithm, messages, faults, client maps."""
