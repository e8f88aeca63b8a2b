"""Comparison of the paper's systems under one budget: runs, tables, curves and picture sheets."""
