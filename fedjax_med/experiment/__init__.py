"""From a config to the parts that it names, checked and ready to run."""
