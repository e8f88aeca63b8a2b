"""One result for models, evaluators and pictures: typed, and a mapping for Detectron2."""

from collections.abc import Mapping
from dataclasses import fields, replace

import pytest
import torch
from detectron2.structures import Instances

from rmonet_d2.modeling.decomposition import Decomposition

MASKS = torch.full((3, 4, 5), 1 / 3)


def test_it_is_a_mapping_over_the_fields_that_are_set():
    output = Decomposition(masks=MASKS, instances=Instances((4, 5)), box_source="mask")
    assert isinstance(output, Mapping)
    assert set(output) == {"masks", "instances", "box_source"} and len(output) == 3
    assert output["masks"] is output.masks is MASKS
    assert "latents" not in output and output.get("latents") is None
    for name in ("latents", "nothing", "__dict__"):
        with pytest.raises(KeyError, match=name):
            output[name]
    assert {**output}.keys() == {"masks", "instances", "box_source"}


def test_fields_are_set_later_and_replaced():
    output = Decomposition(masks=MASKS)
    output.latents = torch.zeros(3, 2)
    assert list(output) == ["masks", "latents"]
    other = replace(output, title="first", latents=None)
    assert list(other) == ["masks", "title"] and "latents" in output


def test_every_field_is_documented():
    for field in fields(Decomposition):
        assert f"        {field.name}: " in Decomposition.__doc__, field.name
