"""This process beside others: signals, locks, memory, and the files that it may open."""
