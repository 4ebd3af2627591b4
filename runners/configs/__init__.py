"""Configs: paths, text and files, allowed names, types and ranges of fields, derived fields."""
