"""Measurements of speed and memory: ratios of what ran side by side in one run."""
