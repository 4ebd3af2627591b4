"""Parameters from elsewhere and for elsewhere: Hugging Face, LWM, other runs."""
