"""What is wrong with a data set: copies, contradictions, unreadable files."""
