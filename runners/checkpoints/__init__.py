"""Checkpoints: saving, keeping, verifying, listing, comparing and restoring a run's state."""
