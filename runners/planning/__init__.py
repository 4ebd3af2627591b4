"""Planning: the memory, time and exchanges of a step on devices that may be absent."""
