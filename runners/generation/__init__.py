"""Generation: text from a trained model."""
