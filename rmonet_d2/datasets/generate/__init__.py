"""Scenes from nothing: Multi-dSprites, and CLEVR rendered with Blender."""
