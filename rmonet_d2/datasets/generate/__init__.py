"""Generates scenes: Multi-dSprites, and CLEVR rendered by Blender."""
