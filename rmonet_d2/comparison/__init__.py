"""The compared systems of the paper under one budget: runs, tables, curves and picture sheets."""
