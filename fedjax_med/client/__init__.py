"""Client-side computation: batches, augmentation, losses, local training."""
