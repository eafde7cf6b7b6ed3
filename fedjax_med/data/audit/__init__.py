"""Audit of a data set: copies, contradictory labels, unreadable files."""
