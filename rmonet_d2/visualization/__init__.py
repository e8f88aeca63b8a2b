"""Pictures of decomposed scenes, PNG files written during training, and the HTML report.

The submodules are not imported here, because models only need ``pictures``, and neither the figures
nor the report.
"""

import detectron2  # noqa: F401  (registers this project first, see utils/registration.py)
