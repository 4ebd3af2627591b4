"""A state on disk: saved, kept, checked, listed, and restored where it is whole."""
