"""Resumable jobs that make the splits of a data set."""
