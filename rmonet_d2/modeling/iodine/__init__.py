"""The refinement network of IODINE (Greff et al. 2019)."""
