"""What a client computes: batches, augmentation, losses, local training."""
