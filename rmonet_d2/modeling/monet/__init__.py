"""The attention networks of MONet (Burgess et al. 2019) and of its two ResNet18 variants."""
