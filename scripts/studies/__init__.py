"""What scripts/methods.py and scripts/results.py train, and how they tell of it."""
