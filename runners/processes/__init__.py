"""The process and its surroundings: signals, locks, memory, and files it may open."""
