"""What a run is computed on: meshes, how arrays lie on them, memory, speed, exchanges."""
