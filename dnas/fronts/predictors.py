"""Predictors of a number of a network by its one-hot features: ridge regression and support vectors, the better of the two.

Both are chosen by cross-validation over a grid, by the mean absolute percentage error, and so is the one that is kept, as in
LINAS (Cummings et al., arXiv 2205.10358). Labels are divided by a power of ten that leaves two digits before the point.

    ridge   alpha 0.1 to 10 in 9 steps by a factor             (theirs: 0.1, 0.2, ... 10)
    RBF-SVR C 1 to 100 in 5 steps by a factor; gamma 1 / features; epsilon 0  (theirs: 1 to 100)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FOLDS = 5
ALPHAS = np.geomspace(0.1, 10, 9)
PENALTIES = np.geomspace(1, 100, 5)


class Predictor(NamedTuple):
    """A fitted predictor. predict: features `[N, F]` -> numbers `[N]`. name: ridge, svr, or mean where there is too little
    to fit. error: of the cross-validation, a share; NaN of the mean."""

    predict: Callable[[np.ndarray], np.ndarray]
    name: str
    error: float


def fit(features: np.ndarray, labels: np.ndarray) -> Predictor:
    """The predictor of the labels `[N]` of networks with these features `[N, F]`, fitted on all of them."""
    labels = np.asarray(labels, np.float64)
    if len(labels) < 4 or np.ptp(labels) == 0:
        mean = float(labels.mean())
        return Predictor(lambda rows: np.full(len(rows), mean), "mean", math.nan)
    scale = 10.0 ** (math.floor(math.log10(np.abs(labels).max())) - 1)
    searched = {name: _search(model, grid, features, labels / scale) for name, model, grid in _models()}
    name, best = max(searched.items(), key=lambda item: item[1].best_score_)
    return Predictor(lambda rows: scale * best.predict(rows), name, -float(best.best_score_))


def _models():
    from sklearn.linear_model import Ridge
    from sklearn.svm import SVR

    return (("ridge", Ridge(), {"alpha": ALPHAS}),
            ("svr", SVR(kernel="rbf", gamma="auto", epsilon=0.0), {"C": PENALTIES}))


def _search(model, grid, features, labels):
    """The best of the grid by cross-validation, fitted. An error is divided by the label, or by a tenth of the mean where
    the label is smaller: a percentage of nearly nothing says nothing."""
    from sklearn.model_selection import GridSearchCV, KFold

    least = np.abs(labels).mean() / 10

    def score(fitted, rows, truth):
        return -float(np.mean(np.abs(fitted.predict(rows) - truth) / np.maximum(np.abs(truth), least)))

    folds = KFold(min(FOLDS, len(labels)), shuffle=True, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        return GridSearchCV(model, grid, scoring=score, cv=folds).fit(features, labels)
