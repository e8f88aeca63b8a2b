"""Scalars of a training step that stay on the device until all of them are read at once.

``EventStorage.put_scalar`` needs a number, and converting a tensor to a number waits for the
device, once per scalar and step. Models therefore put tensors here, and the trainer reads them
together with the losses.
"""

from weakref import WeakKeyDictionary

import torch
from detectron2.utils.events import EventStorage, get_event_storage

_pending: WeakKeyDictionary[EventStorage, dict[str, torch.Tensor]] = WeakKeyDictionary()


def put_deferred(name: str, value: torch.Tensor) -> None:
    """Keep a scalar tensor for the current event storage, replacing an earlier one of that name."""
    _pending.setdefault(get_event_storage(), {})[name] = value.detach()


def read_deferred(**more: torch.Tensor) -> dict[str, float]:
    """Return all pending scalars, and ``more``, as floats, with one host synchronization for all.

    The pending scalars are also written to the event storage; ``more`` is only returned.
    """
    storage = get_event_storage()
    pending = _pending.pop(storage, {})
    scalars = {**pending, **more}
    if not scalars:
        return {}
    device = next(iter(scalars.values())).device
    tensors = [value.detach().to(device, torch.float32) for value in scalars.values()]
    numbers = torch.stack(tensors).tolist()
    values: dict[str, float] = dict(zip(scalars, numbers, strict=True))
    for name in pending:
        storage.put_scalar(name, values[name])
    return values
