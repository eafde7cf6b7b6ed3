"""The shelf of algorithms: ``build(training, server_optimizer, *, options) -> FedAlgorithm``."""
