"""Kinds of masks for the tests of the pseudo labels: each gives (B, R, H, W) float32 in [0, 1]."""

import numpy as np
import torch


def noise(shape, generator):
    """Full-size noise, from dense to almost empty."""
    m = torch.rand(shape, generator=generator)
    keep = torch.rand(*shape[:2], 1, 1, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < keep, m, 0.0)


def blobs(shape, generator, softness=6.0):
    """Smooth objects in boxes outside of which the mask is exactly 0, as the model makes them."""
    b, r, height, width = shape

    def uniform(low, high):
        return torch.rand(b, r, 1, 1, generator=generator) * (high - low) + low

    y = torch.arange(height)[:, None] / height
    x = torch.arange(width)[None] / width
    dy, dx = y - uniform(0, 1), x - uniform(0, 1)
    side_y, side_x = uniform(0.1, 0.4), uniform(0.1, 0.4)
    inside = (dy.abs() < side_y) & (dx.abs() < side_x)
    distance = (1.6 * dy / side_y) ** 2 + (1.6 * dx / side_x) ** 2
    wave = torch.sin(9 * dx / side_x + uniform(0, 6)) * torch.sin(9 * dy / side_y)
    m = torch.sigmoid(uniform(0, softness) * (1.2 - distance) + wave) * uniform(0.2, 1)
    return torch.where(inside, m, 0.0)


def touching(shape, generator):
    """Two objects a mask, one half as bright, apart, edge to edge or overlapping."""
    return torch.maximum(blobs(shape, generator), 0.5 * blobs(shape, generator))


def saturated(shape, generator):
    """Exact zeros and ones."""
    return (blobs(shape, generator, 60.0) > 0.5).float()


def quantised(shape, generator):
    """Few levels and mirror symmetry: ties of the between-class variance and of the scores."""
    levels = torch.randint(1, 8, (*shape[:2], 1, 1), generator=generator)
    m = (blobs(shape, generator) * levels).round() / levels
    return torch.maximum(m, m.flip(3))


def tiny(shape, generator):
    """One to four pixels of equal or different values."""
    m = torch.zeros(shape).flatten(2)
    places = torch.randint(0, m.shape[2], (*shape[:2], 4), generator=generator)
    values = torch.randint(0, 5, places.shape, generator=generator) / 4
    return m.scatter_(2, places, values).view(shape)


def constant(shape, generator):
    """One value, or one value plus rounding noise, or slightly more than that."""
    value = torch.randint(0, 3, (*shape[:2], 1, 1), generator=generator) / 2
    scale = 10.0 ** -torch.randint(4, 9, value.shape, generator=generator)
    return (value * (1 - scale * torch.rand(shape, generator=generator))).clamp(0, 1)


def around_the_minimum(shape, generator):
    """Values next to 0.001, under which a value counts as 0."""
    m = torch.randint(-3, 4, shape, generator=generator) * 2.0**-33 + np.float32(0.001).item()
    return torch.where(blobs(shape, generator) > 0.3, m, 0.0)


KINDS = [noise, blobs, touching, saturated, quantised, tiny, constant, around_the_minimum]
