"""What a run tells: rows of metrics on the terminal, in files, in TensorBoard."""
