"""How scores become weighted means: the dense reference, and what is faster on a device."""
