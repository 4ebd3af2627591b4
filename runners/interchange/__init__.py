"""Interchange: parameters from Hugging Face, LWM and other runs, and back to Hugging Face."""
