"""Pictures of scenes and what was found in them, PNG files during training, and the report.

Nothing is imported here: the model draws with ``pictures`` and needs neither matplotlib's pyplot
nor the report.
"""
