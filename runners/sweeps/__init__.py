"""Sweeps: many runs of one experiment, and the table of their results."""
