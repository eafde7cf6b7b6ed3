"""Pretrained weights: their sources, and readers of their files."""
