"""From trained weights and images to boxes, masks, tables and a report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "discoverer": ["Discoverer", "Findings"],
        "objects": ["FoundObject"],
        "weights": ["LoadedModel", "find_config", "load_model", "load_weights"],
    },
)
