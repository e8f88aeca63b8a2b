"""The foreground, background and components of SPACE (Lin et al. 2020)."""
