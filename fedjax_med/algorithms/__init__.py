"""Algorithms: ``build(training, server_optimizer, *, options) -> FederatedAlgorithm``."""
