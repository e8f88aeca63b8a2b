import math

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from rmonet_d2.evaluation import metrics


@pytest.mark.parametrize("pixels", [1, 2, 3, 10, 500, 4096])
@pytest.mark.parametrize("clusters", [(1, 1), (1, 4), (5, 2), (6, 6), (300, 7), (400, 400)])
def test_ari_equals_scikit_learn(pixels, clusters):
    rng = np.random.default_rng(pixels * 1000 + clusters[0])
    for _ in range(5):
        true = rng.integers(0, clusters[0], pixels)
        noise = rng.integers(0, clusters[1], pixels)
        for pred in (noise, np.where(rng.random(pixels) < 0.3, noise, true)):
            expected = adjusted_rand_score(true, pred)
            assert metrics.adjusted_rand_index(true, pred) == pytest.approx(expected, abs=1e-12)


def test_ari_does_not_depend_on_the_names_of_labels():
    rng = np.random.default_rng(0)
    true, pred = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    renamed = np.array([-7, 100, 3, 255])[pred]
    ari = metrics.adjusted_rand_index(true, pred)
    assert metrics.adjusted_rand_index(true, renamed) == pytest.approx(ari, abs=1e-12)
    assert metrics.adjusted_rand_index(pred, true) == pytest.approx(ari, abs=1e-12)


def test_ari_of_many_pixels_does_not_overflow():
    true = np.repeat(np.arange(4), 400_000)
    assert metrics.adjusted_rand_index(true, true) == 1.0
    assert metrics.adjusted_rand_index(true, true // 2) == pytest.approx(
        adjusted_rand_score(true, true // 2), abs=1e-9
    )


def test_foreground_ari_corner_cases():
    one = np.zeros((8, 8), int)
    one[2:6, 2:6] = 1
    halves = one.copy()
    halves[2:4, 2:6] = 2
    assert metrics.foreground_ari(one, one) == 1.0
    assert metrics.foreground_ari(one, np.zeros_like(one)) == 1.0
    assert metrics.foreground_ari(one, halves) == 0.0
    assert metrics.foreground_ari(halves, one) == 0.0
    assert math.isnan(metrics.foreground_ari(np.zeros_like(one), one))


def test_foreground_ari_does_not_see_the_background():
    true = np.zeros((8, 8), int)
    true[:2], true[2:4] = 1, 2
    pred = true.copy()
    pred[4:] = np.random.default_rng(0).integers(0, 5, (4, 8))
    assert metrics.foreground_ari(true, pred) == 1.0
    assert metrics.adjusted_rand_index(true, pred) < 1.0


def test_ari_of_different_sizes_is_an_error():
    with pytest.raises(ValueError, match="4 and 5 pixels"):
        metrics.adjusted_rand_index(np.zeros(4), np.zeros(5))


def test_mean_best_overlap_equals_nested_loops():
    rng = np.random.default_rng(1)
    true, pred = rng.random((4, 9, 7)) > 0.6, rng.random((5, 9, 7)) > 0.5
    best = [max((t & p).sum() / (t | p).sum() for p in pred) for t in true]
    assert metrics.mean_best_overlap(true, pred) == pytest.approx(np.mean(best))
    with_empty = np.concatenate([true, np.zeros((1, 9, 7), bool)])
    assert metrics.mean_best_overlap(with_empty, pred) == pytest.approx(np.mean(best))


def test_mean_best_overlap_limits():
    masks = np.eye(3, dtype=bool)[:, :, None]
    assert metrics.mean_best_overlap(masks, masks[::-1]) == 1.0
    assert metrics.mean_best_overlap(masks, masks[:0]) == 0.0
    assert math.isnan(metrics.mean_best_overlap(masks[:0], masks))


def test_reconstruction_mse():
    image = np.zeros((3, 4, 4))
    assert metrics.reconstruction_mse(image, image) == 0.0
    assert metrics.reconstruction_mse(image, image + 0.5) == 0.25
    with pytest.raises(ValueError, match="differ"):
        metrics.reconstruction_mse(image, np.zeros((3, 8, 8)))


def test_later_masks_are_painted_on_top():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :3], masks[1, 2:] = True, True
    assert metrics.paint_labels(masks, (4, 4))[:, 0].tolist() == [1, 1, 2, 2]
