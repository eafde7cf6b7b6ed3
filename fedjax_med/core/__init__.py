"""One round of federated learning as pure functions: algorithm, messages, faults, clients."""
