"""Devices: meshes, how arrays are sharded on them, memory, FLOPs, exchanges, installation."""
