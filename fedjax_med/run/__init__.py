"""One run in its workdir: rounds, checkpoints, resumption, records, what is said."""
