"""Ways to compute attention: the dense reference, and faster cores for devices and rings."""
