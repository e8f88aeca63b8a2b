"""Detections of tiles become objects: by hand-made masks."""

import numpy as np

from rmonet_d2.discovery.merge import Detection, merge

LEFT, RIGHT = (0, 0, 64, 64), (32, 0, 96, 64)


def detection(tile, x0, y0, x1, y1, score=0.9, is_cut=False):
    mask = np.ones((y1 - y0, x1 - x0), bool)
    margin = np.pad(np.where(mask, 0.5, -0.5), 1, constant_values=-0.5).astype(np.float32)
    return Detection(tile, x0, y0, mask, margin, score, is_cut)


def boxes(merged):
    return sorted(one.box for one in merged)


def test_tiles_outvote_a_part_of_an_object():
    part = detection(0, 40, 10, 46, 30, score=0.95)
    whole = [detection(1, 40, 10, 60, 30), detection(2, 40, 10, 60, 31, score=0.8)]
    merged = merge([part, *whole], [LEFT, RIGHT, (32, 0, 96, 64)])
    assert boxes(merged) == [(40, 10, 60, 30)]


def test_a_piece_counts_only_if_no_tile_has_the_whole():
    piece = detection(0, 50, 10, 64, 30, score=1.0, is_cut=True)
    assert boxes(merge([piece, detection(1, 50, 10, 80, 30)], [LEFT, RIGHT])) == [(50, 10, 80, 30)]
    assert boxes(merge([piece], [LEFT, RIGHT])) == [(50, 10, 64, 30)]


def test_pieces_that_agree_in_the_overlap_are_joined():
    pieces = [detection(0, 10, 10, 64, 20, 0.9, True), detection(1, 32, 10, 90, 20, 0.8, True)]
    merged = merge(pieces, [LEFT, RIGHT])
    assert boxes(merged) == [(10, 10, 90, 20)] and merged[0].mask.all()
    assert len(merged[0].pieces) == 2
    # Two neighbors that do not agree there stay two.
    apart = [detection(0, 10, 10, 64, 20, 0.9, True), detection(1, 32, 40, 90, 50, 0.8, True)]
    assert len(merge(apart, [LEFT, RIGHT])) == 2


def test_a_sliver_at_a_border_is_not_an_object():
    sliver = detection(0, 63, 10, 64, 30, is_cut=True)
    whole = detection(1, 64, 10, 80, 30)
    assert boxes(merge([sliver, whole], [LEFT, RIGHT])) == [(64, 10, 80, 30)]


def test_only_small_enclosed_objects_are_highlights():
    for side, expected in ((4, 1), (14, 2)):
        ring = detection(0, 10, 10, 40, 40)
        ring.mask[10 : 10 + side, 10 : 10 + side] = False
        inside = detection(0, 20, 20, 20 + side, 20 + side)
        assert len(merge([ring, inside], [LEFT])) == expected
