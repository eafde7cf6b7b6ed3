"""Weights that others trained: where they come from and how they are read."""
