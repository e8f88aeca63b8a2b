"""Linear and small nonlinear probes of frozen features, with controls.

A probe shows what can be read out of the latents, not what the model itself uses. Two controls tell
how much of it is the latents' merit: the same probe trained on shuffled labels, which shows what it
scores by chance, and the same probe on the object's mean color and box alone.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GroupKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rmonet_d2.latents.objects import ObjectTable
from rmonet_d2.latents.targets import Target

PROBES = ("linear", "mlp")
FEATURES = ("latents", "shuffled", "baseline")
HIDDEN = (64,)
# Some data sets give less than a thousand objects, too few to set some aside for early stopping.
WEIGHT_DECAY = 0.1


@dataclass
class Score:
    """Scores of one probe over the folds: accuracy for classes, else R²."""

    target: str
    metric: str
    probe: str
    features: str
    folds: list[float]
    num_objects: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.folds))

    @property
    def std(self) -> float:
        return float(np.std(self.folds))


def _estimator(probe: str, is_class: bool, seed: int):
    if probe == "linear":
        model = LogisticRegression(max_iter=2000) if is_class else Ridge(alpha=1.0)
    else:
        kind = MLPClassifier if is_class else MLPRegressor
        model = kind(hidden_layer_sizes=HIDDEN, max_iter=300, alpha=WEIGHT_DECAY, random_state=seed)
    return make_pipeline(StandardScaler(), model)


def _fit_and_score(probe: str, features, target: Target, train, test, seed: int) -> float:
    """``train``: (rows of the features, rows of the labels), which differ where shuffled."""
    values, scale = target.values, 1.0
    if not target.is_class:
        # MLPs learn numbers of unit scale; R² does not change with the scale.
        scale = values.std(axis=0)
        values = (values - values.mean(axis=0)) / scale
        values = values[:, 0] if values.shape[1] == 1 else values
    estimator = _estimator(probe, target.is_class, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(features[train[0]], values[train[1]])
    predicted = estimator.predict(features[test])
    metric = accuracy_score if target.is_class else r2_score
    return float(metric(values[test], predicted))


def probe_target(table: ObjectTable, target: Target, folds: int = 5, seed: int = 0) -> list[Score]:
    """Cross-validated scores of all probes for one attribute; an image is in one fold as a whole.

    Returns:
        A score for each of ``PROBES`` and each of ``FEATURES``.
    """
    groups = table.image[target.rows]
    splits = list(GroupKFold(n_splits=folds).split(groups, groups=groups))
    features = {
        "latents": table.latents[target.rows],
        "shuffled": table.latents[target.rows],
        "baseline": table.appearance[target.rows],
    }
    draw = np.random.default_rng(seed)
    scores = []
    for probe in PROBES:
        for name in FEATURES:
            values = []
            for train, test in splits:
                labels = draw.permutation(train) if name == "shuffled" else train
                pair = (train, labels)
                values.append(_fit_and_score(probe, features[name], target, pair, test, seed))
            metric = "accuracy" if target.is_class else "R²"
            scores.append(Score(target.name, metric, probe, name, values, len(target.rows)))
    return scores
