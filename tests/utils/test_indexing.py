"""Index functions against torch's own."""

import pytest
import torch

from rmonet_d2.utils.indexing import first_not_below, true_positions


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_true_positions_are_those_of_nonzero(share):
    mask = torch.rand(5000, generator=torch.Generator().manual_seed(0)) < share
    for part in (mask, mask[1::3], mask[:0]):
        found = true_positions(part)
        assert found.dtype == torch.int64
        assert torch.equal(found, part.nonzero().squeeze(1))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_first_not_below_counts_what_is_below(dtype):
    generator = torch.Generator().manual_seed(1)
    ascending, values = (
        torch.randint(0, 500, (size,), generator=generator, dtype=dtype).sort().values
        for size in (300, 700)
    )
    for elements in (ascending, ascending[:0]):
        found = first_not_below(elements, values)
        assert found.dtype == dtype
        assert found.tolist() == [(elements < value).sum().item() for value in values]
