"""Counts what would make the host wait for a GPU, on a machine without one."""

from collections import Counter

import torch
import torchvision  # noqa: F401 (registers its operators)
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Operators whose result, or its size, the host needs.
WAITING = {
    aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select,
    # A tensor of numbers, which waits on its way to the device.
    aten.lift_fresh,
    aten.unique_dim, aten._unique2, aten.unique_consecutive, torch.ops.torchvision.nms,
}  # fmt: skip
READS = ("tolist", "numpy", "cpu")


class HostWaits(TorchDispatchMode):
    """Inside, ``found`` counts the operators and reads that wait, by name."""

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self._reads = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        by_mask = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        by_counts = func is aten.repeat_interleave.Tensor and not (kwargs or {}).get("output_size")
        if packet in WAITING or by_mask or by_counts:
            self.found[str(packet)] += 1
        return func(*args, **(kwargs or {}))

    def __enter__(self):
        for name in READS:
            self._reads[name] = getattr(torch.Tensor, name)
            setattr(torch.Tensor, name, self._counting(name))
        return super().__enter__()

    def __exit__(self, *error):
        for name, read in self._reads.items():
            setattr(torch.Tensor, name, read)
        return super().__exit__(*error)

    def _counting(self, name):
        def read(tensor, *args, **kwargs):
            self.found[name] += 1
            return self._reads[name](tensor, *args, **kwargs)

        return read
