"""Least squares with coefficients of at least 0, and the greatest of several such fits.

Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23, on the normal equations:
columns are few and scaled, so squaring their condition does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ENOUGH = 1000  # rows on which starts are compared
STARTS = 4  # random partitions tried; the best of more is hardly better
Floats = NDArray[np.float64]


def nnls(columns: Floats, target: Floats) -> Floats:
    """The x >= 0 that minimises |columns x - target|; a column without a use gets 0."""
    gram, projected = columns.T @ columns, columns.T @ target
    size = len(projected)
    x = np.zeros(size)
    free = np.zeros(size, dtype=bool)
    tolerance = 1e-10 * max(float(np.abs(projected).max(initial=0.0)), 1e-300)
    for _ in range(10 * size):
        gradient = projected - gram @ x
        gradient[free] = -np.inf
        if not size or gradient.max() <= tolerance:
            break
        free[int(gradient.argmax())] = True
        x = _feasible(gram, projected, x, free)
    return x


def _feasible(gram: Floats, projected: Floats, x: Floats, free: NDArray[np.bool_]) -> Floats:
    """The unconstrained solution over the free columns, freeing fewer until none is negative."""
    while True:
        step = np.zeros_like(x)
        inner = gram[np.ix_(free, free)]
        inner[np.diag_indices_from(inner)] *= 1 + 1e-10  # so that equal columns share
        step[free] = np.linalg.solve(inner, projected[free])
        blocked = free & (step <= 0)
        if not blocked.any():
            return step
        share = np.min(x[blocked] / np.maximum(x[blocked] - step[blocked], 1e-300))
        x = x + share * (step - x)
        free &= x > 1e-14
        x[~free] = 0.0


@dataclass(frozen=True, slots=True)
class Greatest:
    """Coefficients of `shared @ base + max(0, own @ pieces[0], own @ pieces[1], ...)`."""

    base: Floats
    pieces: Floats

    def at(self, shared: Floats, own: Floats) -> Floats:
        """The value in each row."""
        return shared @ self.base + _attention(own, self.pieces)


def greatest(
    shared: Floats,
    own: Floats,
    target: Floats,
    *,
    pieces: int,
    ties: Floats | None = None,
    seed: int = 0,
) -> Greatest:
    """Fit a sum and the greatest of several linear pieces to positive targets, by relative error.

    Alternates: rows go to the piece that is greatest there, then all coefficients are fitted at
    once. Starts from several random partitions and keeps the best; the same seed gives the same
    answer. The error that counts is the absolute one, so outliers pull little (iterated weights).
    Each row of `ties` is a sum of shared coefficients that had better be 0; it weighs as much as
    an error of the same size in every row.
    """
    shared_scale, own_scale = _scale(shared), _scale(own)
    shared, own = shared / shared_scale, own / own_scale
    if pieces > 1:  # a piece may start below 0: it then binds only where it has grown
        own = np.column_stack([own, -np.ones(len(own))])
        own_scale = np.append(own_scale, 1.0)
    ties = np.zeros((0, shared.shape[1])) if ties is None else ties / shared_scale
    random = np.random.default_rng(seed)
    sample = random.permutation(len(target))[:ENOUGH]
    best = _best_start(shared[sample], own[sample], target[sample], ties, pieces, random)
    if len(sample) < len(target) and len(best.pieces):
        owner = (own @ best.pieces.T).argmax(1)
        best, _ = _alternate(shared, own, target, ties, owner, len(best.pieces))
    coefficients = best.pieces / own_scale
    if pieces > 1:  # fold the negative start into the first column, which is the constant
        coefficients[:, 0] -= coefficients[:, -1]
        coefficients = coefficients[:, :-1]
    return Greatest(best.base / shared_scale, coefficients)


def _best_start(
    shared: Floats,
    own: Floats,
    target: Floats,
    ties: Floats,
    pieces: int,
    random: np.random.Generator,
) -> Greatest:
    """The best of fits that start from rows parted by where they lie among the sums."""
    places = np.sqrt(np.abs(own))
    tries = []
    for _ in range(1 if pieces == 1 else STARTS):
        centres = places[random.choice(len(places), pieces, replace=False)]
        owner = ((places[:, None] - centres) ** 2).sum(2).argmin(1)
        tries.append(_alternate(shared, own, target, ties, owner, pieces))
    return min(tries, key=lambda found: found[1])[0]


def _alternate(
    shared: Floats,
    own: Floats,
    target: Floats,
    ties: Floats,
    owner: NDArray[np.intp],
    pieces: int,
) -> tuple[Greatest, float]:
    width, weights = shared.shape[1], np.ones(len(target))
    tied = np.zeros((len(ties), width + pieces * own.shape[1]))
    tied[:, :width] = ties * np.sqrt(len(target))
    best, best_error = Greatest(np.zeros(width), np.zeros((0, own.shape[1]))), np.inf
    for _ in range(12):
        spread = np.zeros((len(target), pieces, own.shape[1]))
        spread[np.arange(len(target)), owner] = own
        columns = np.column_stack([shared, spread.reshape(len(target), -1)]) / target[:, None]
        solution = nnls(
            np.vstack([columns * weights[:, None], tied]),
            np.concatenate([weights, np.zeros(len(tied))]),
        )
        crowded = np.bincount(owner, minlength=pieces) >= min(10, len(target) // pieces)
        coefficients = solution[width:].reshape(pieces, -1)
        fit = Greatest(solution[:width], coefficients[crowded])
        errors = np.abs(fit.at(shared, own) / target - 1)
        error = float(np.minimum(errors, 1.0).mean())
        if error < best_error:
            best, best_error = fit, error
        weights = _weights(errors)
        moved = np.flatnonzero(crowded)[(own @ fit.pieces.T).argmax(1)]
        if (moved == owner).all() and error > best_error * 0.999:
            break
        owner = moved
    return best, best_error


def _weights(errors: Floats) -> Floats:
    """Weights that turn squares into absolute errors, and leave far outliers out."""
    far = max(0.5, 12 * float(np.median(errors)))
    weights: Floats = np.where(errors > far, 0.0, 1 / np.sqrt(np.maximum(errors, 0.01)))
    return weights


def _attention(own: Floats, pieces: Floats) -> Floats:
    attention: Floats = (own @ pieces.T).max(1, initial=0.0)
    return attention


def _scale(columns: Floats) -> Floats:
    scale: Floats = np.abs(columns).max(axis=0, initial=0.0)
    scale[scale == 0] = 1.0
    return scale
