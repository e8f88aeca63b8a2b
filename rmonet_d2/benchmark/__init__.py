"""Measurements of speed and memory, as ratios of variants that run side by side."""
