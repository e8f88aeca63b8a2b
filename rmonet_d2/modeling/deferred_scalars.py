"""Scalars of a training step that stay on the device until one read takes all of them.

``EventStorage.put_scalar`` needs a number, and a number waits for the device: once for each scalar
and step. Models put tensors here; the trainer reads them together with the losses.
"""

from weakref import WeakKeyDictionary

import torch
from detectron2.utils.events import EventStorage, get_event_storage

_measured: WeakKeyDictionary[EventStorage, dict[str, torch.Tensor]] = WeakKeyDictionary()


def put_measured(name: str, value: torch.Tensor) -> None:
    """Keep a scalar tensor for the current event storage; a later one of this name replaces it."""
    _measured.setdefault(get_event_storage(), {})[name] = value.detach()


def read_measured(**more: torch.Tensor) -> dict[str, float]:
    """Take what was put, and ``more``, as numbers: one host synchronisation for all.

    What was put is in the event storage afterwards; ``more`` is only returned, with the rest.
    """
    storage = get_event_storage()
    measured = _measured.pop(storage, {})
    values = {**measured, **more}
    if not values:
        return {}
    device = next(iter(values.values())).device
    tensors = [value.detach().to(device, torch.float32) for value in values.values()]
    numbers = torch.stack(tensors).tolist()
    values = dict(zip(values, numbers, strict=True))
    for name in measured:
        storage.put_scalar(name, values[name])
    return values
