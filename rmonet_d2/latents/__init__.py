"""What the latents know about objects: probes, disentanglement, traversals and edited scenes."""
