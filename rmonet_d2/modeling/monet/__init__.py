"""The attention networks of MONet (Burgess et al. 2019) and its two ResNet18 variants."""
