"""Makes data sets: generates scenes or converts published files, in runs that can be resumed.

Nothing here imports torch or Detectron2, so that worker processes start quickly and that Blender's
Python needs neither.
"""
