"""A config as paths, text and files, what its names may mean, and what is derived."""
