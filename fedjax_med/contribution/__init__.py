"""What each client contributes: Shapley values and leave-one-out by replay."""
