"""Converts published TFRecord files to this project's format."""
