"""Making data sets: scenes from nothing, published files converted, and the resumable work of both.

Nothing here imports torch or Detectron2: worker processes start quickly, and Blender's Python needs
neither.
"""
