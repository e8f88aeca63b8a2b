"""Disentanglement, completeness and informativeness (Eastwood and Williams, ICLR 2018).

Shape shorthand: D latents, F factors. R: (D, F), the importance of latent i for factor j, at least
0, each column summing to 1.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import accuracy_score, r2_score

from rmonet_d2.latents.objects import ObjectTable
from rmonet_d2.latents.targets import ANGLES, Target

TREES = 60


@dataclass
class DCI:
    """The three scores, each at most 1, and what they come from.

    Attributes:
        disentanglement: 1 if each latent is important for one factor only, weighted by importance.
        completeness: 1 if each factor depends on one latent only, mean over the factors.
        informativeness: mean accuracy or R² of the forests on images that they have not seen.
        factors: names, in the order of the columns of ``importance``.
        importance: (D, F).
    """

    disentanglement: float
    completeness: float
    informativeness: float
    factors: list[str]
    importance: np.ndarray


def _entropy(shares: np.ndarray, axis: int) -> np.ndarray:
    """Entropy along an axis in units of its largest possible value."""
    count = shares.shape[axis]
    if count < 2:
        return np.zeros(shares.shape[1 - axis])
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return -(shares * logs).sum(axis=axis) / np.log(count)


def disentanglement(importance: np.ndarray) -> float:
    """Sum over latents of rho_i (1 - H(P_i)): P_i is row i of R normalized to 1, and rho_i its part
    of the whole importance."""
    total = importance.sum(axis=1)
    rows = importance / np.maximum(total[:, None], 1e-12)
    return float((total / total.sum() * (1 - _entropy(rows, axis=1))).sum())


def completeness(importance: np.ndarray) -> float:
    """Mean over factors of 1 - H(column j of R, normalized to 1)."""
    columns = importance / np.maximum(importance.sum(axis=0), 1e-12)
    return float((1 - _entropy(columns, axis=0)).mean())


def measure_dci(table: ObjectTable, targets: list[Target], seed: int = 0) -> DCI | None:
    """Random forests predict each factor from the latents; their importances are R.

    A vector such as a color is one factor. Angles are left out: they are defined for some shapes
    only, and wrap around. A third of the images tests the forests.

    Returns:
        None where fewer than two factors can be measured.
    """
    factors = [t for t in targets if not t.name.startswith(tuple(ANGLES))]
    if len(factors) < 2:
        return None
    columns, scores = [], []
    for target in factors:
        is_test = table.image[target.rows] % 3 == 2
        features, values = table.latents[target.rows], target.values
        kind = RandomForestClassifier if target.is_class else RandomForestRegressor
        forest = kind(TREES, min_samples_leaf=3, random_state=seed)
        if not target.is_class:
            values = values / values.std(axis=0)
            values = values[:, 0] if values.shape[1] == 1 else values
        forest.fit(features[~is_test], values[~is_test])
        columns.append(forest.feature_importances_)
        metric = accuracy_score if target.is_class else r2_score
        scores.append(metric(values[is_test], forest.predict(features[is_test])))
    importance = np.stack(columns, axis=1)
    return DCI(
        disentanglement=disentanglement(importance),
        completeness=completeness(importance),
        informativeness=float(np.mean(scores)),
        factors=[target.name for target in factors],
        importance=importance,
    )
