"""Turns a config into the parts that it names, checked and ready to run."""
