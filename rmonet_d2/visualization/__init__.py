"""Pictures of scenes and what was found in them, PNG files during training, and the report.

Nothing is imported here: the model draws with ``pictures`` and needs neither matplotlib's pyplot
nor the report.
"""

import detectron2  # noqa: F401  (registers this project first, see utils/registration.py)
