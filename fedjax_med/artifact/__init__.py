"""The model as a thing that leaves: a bundle that needs neither the data nor the run's workdir."""
