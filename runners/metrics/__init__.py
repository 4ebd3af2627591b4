"""Metrics: numbers for the terminal, metrics.jsonl and TensorBoard, and the speed of a run."""
