"""Registration with Detectron2 that costs nothing until Detectron2 is used.

Importing torch and Detectron2 takes seconds, which ``--help`` and programs that only make data
should not have to spend. ``import rmonet_d2`` therefore registers the models and data sets at once
if Detectron2 is already loaded, and otherwise as soon as Detectron2 is imported.
"""

import importlib
import importlib.abc
import importlib.util
import sys

_REGISTERING_MODULES = (
    "rmonet_d2.data.catalog",
    "rmonet_d2.data.clevr_sample",
    "rmonet_d2.modeling",
)


def register() -> None:
    """Register this project's data sets and models in Detectron2's catalogs and registries."""
    for name in _REGISTERING_MODULES:
        importlib.import_module(name)


class _Detectron2Finder(importlib.abc.MetaPathFinder):
    """Calls :func:`register` right after the package ``detectron2`` itself has been imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "detectron2":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_with_detectron2() -> None:
    """Register now if Detectron2 is already loaded, or else as soon as it is imported."""
    if "detectron2" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Detectron2Finder())
