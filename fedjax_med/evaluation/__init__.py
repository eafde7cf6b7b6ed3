"""Predictions, metrics and their intervals, calibration, tables and plots."""
