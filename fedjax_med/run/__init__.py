"""One run in its workdir: rounds, checkpoints, resumption, records, console output."""
