"""The data pipeline: from image files or arrays to the examples of each client."""
