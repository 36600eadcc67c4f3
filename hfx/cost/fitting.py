"""Measured steps become a cost model: which form, which coefficients, how good.

The form is the simplest whose error on steps left out of the fit is close to the best one's.
Times are seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from hfx.request import Mix

from .link import Link, Startup
from .nnls import Floats, Greatest, greatest
from .regime import Piece, Regime
from .shape import Columns, Shape, ladder
from .step import Fit, Key, Limits, StepCost

FOLDS = 3
SIMPLER = 1.05  # a simpler form may err this much more than the best and is still taken
FEWEST = {"decode": 6, "mixed": 10}  # different mixes below which a regime is not fitted
ENOUGH = 1200  # different mixes that a form is chosen on; all are fitted then
DECODE_SHAPES = (
    "decode steps of at least 3 batch sizes (1, 4, 16) at 2 or more contexts each (64, 1024)"
)
MIXED_SHAPES = (
    "steps with prompt chunks of at least 3 lengths (16, 128, 512), alone and beside 4 and 16 "
    "decodes, behind 0 and 1024 cached tokens"
)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Different mixes of one regime and the median time of each."""

    mixes: list[Mix]
    seconds: Floats

    def part(self, chosen: Floats) -> _Steps:
        index = np.flatnonzero(chosen)
        return _Steps([self.mixes[i] for i in index], self.seconds[index])


def fit(
    steps: Iterable[tuple[Mix, float]],
    *,
    key: Key,
    prior: StepCost | None = None,
    quantile: float = 0.95,
    kv_bytes_per_token: int = 0,
    links: Mapping[str, Link] | None = None,
    startup: Startup | None = None,
    source: str = "",
) -> StepCost:
    """A cost model from (mix, seconds) pairs; `report` in it says how good, regime by regime.

    Repeats of a mix count by their median and far outliers are left out, so that un-warmed first
    samples and interruptions do no harm. `upper_s` covers `quantile` of steps left out of the fit.
    A regime with too little data takes the `prior`'s form, scaled to what was measured.

    Raises:
        ValueError: a time is not positive and finite, or a regime has too few or too uniform
            steps and no prior; the message says which shapes to measure.
    """
    if not 0.5 <= quantile < 1:
        raise ValueError(f"quantile is {quantile}: a bound covers from 0.5 to below 1 of the steps")
    decode, mixed = _split(steps)
    regimes: dict[str, Regime] = {}
    report: dict[str, Fit] = {}
    for name, part in (("decode", decode), ("mixed", mixed)):
        fallback = getattr(prior, name) if prior else None
        regimes[name], quality = _regime(name, part, fallback, prior, quantile)
        if quality:
            report[name] = quality
    return StepCost(
        key=key,
        decode=regimes["decode"],
        mixed=regimes["mixed"],
        measured=_limits([*decode.mixes, *mixed.mixes]),
        kv_bytes_per_token=kv_bytes_per_token or (prior.kv_bytes_per_token if prior else 0),
        links=links or (prior.links if prior else {}),
        startup=startup or (prior.startup if prior else None),
        source=source,
        report=report,
    )


def judge(model: StepCost, steps: Iterable[tuple[Mix, float]]) -> dict[str, Fit]:
    """How well a model predicts steps, by regime; regimes without steps are missing."""
    report = {}
    for name, part in zip(("decode", "mixed"), _split(steps), strict=True):
        if part.mixes:
            estimates = [model.step_s(mix) for mix in part.mixes]
            means = np.array([estimate.mean_s for estimate in estimates])
            uppers = np.array([estimate.upper_s for estimate in estimates])
            covered = float((part.seconds <= uppers).mean())
            report[name] = _quality(means, part.seconds, covered)
    return report


def _split(steps: Iterable[tuple[Mix, float]]) -> tuple[_Steps, _Steps]:
    """Different decode-only and mixed mixes with their median times."""
    groups: tuple[dict[Mix, list[float]], ...] = (defaultdict(list), defaultdict(list))
    for i, (mix, seconds) in enumerate(steps):
        if not 0 < seconds < inf:
            raise ValueError(f"step {i} took {seconds} s: a time is positive and finite; drop it")
        if not mix.tokens:
            raise ValueError(f"step {i} did nothing: leave steps without tokens out")
        groups[bool(mix.prefill_tokens)][mix].append(seconds)
    decode, mixed = (
        _Steps(list(group), np.array([float(np.median(times)) for times in group.values()]))
        for group in groups
    )
    return decode, mixed


def _regime(
    name: str, steps: _Steps, fallback: Regime | None, prior: StepCost | None, quantile: float
) -> tuple[Regime, Fit | None]:
    lack = _lack(name, steps)
    if not lack:
        return _fitted(steps, name == "mixed", quantile)
    if fallback is None or prior is None:
        shapes = DECODE_SHAPES if name == "decode" else MIXED_SHAPES
        raise ValueError(f"too little to fit {name} steps: {lack}; measure {shapes}")
    if not steps.mixes:
        return fallback, None
    raw_s = np.array([max(prior.raw_s(mix)) for mix in steps.mixes])
    ratios = steps.seconds / raw_s
    ratio = float(np.median(ratios))
    bound = max(fallback.upper_factor, float(np.quantile(ratios, quantile)) / ratio)
    covered = float((ratios <= ratio * bound).mean())
    return scaled(fallback, ratio, bound), _quality(raw_s * ratio, steps.seconds, covered)


def scaled(regime: Regime, factor: float, upper_factor: float | None = None) -> Regime:
    """Every price of a regime times a factor."""
    pieces = tuple(
        Piece(**{name: factor * getattr(piece, name) for name in Piece.__slots__})
        for piece in regime.pieces
    )
    return replace(
        regime,
        curve_s=tuple(factor * value for value in regime.curve_s),
        per_token_s=factor * regime.per_token_s,
        per_decode_s=factor * regime.per_decode_s,
        per_chunk_s=factor * regime.per_chunk_s,
        pieces=pieces,
        upper_factor=upper_factor or regime.upper_factor,
    )


def _lack(name: str, steps: _Steps) -> str:
    """What is missing for a fit; empty where nothing is."""
    columns = Columns.of(steps.mixes)
    if len(steps.mixes) < FEWEST[name]:
        return f"{len(steps.mixes)} different mixes of at least {FEWEST[name]}"
    varied = {"chunk lengths": columns.tokens} if name == "mixed" else {}
    if name == "decode":
        contexts = columns.context / columns.decodes
        varied = {"batch sizes": columns.decodes, "contexts": contexts}
        if len(np.unique(contexts)) < 2:
            return "every decode had the same context"
    for what, values in varied.items():
        distinct = len(np.unique(values))
        if distinct < 3 and not (what == "contexts" and distinct == 2):
            return f"{distinct} {what} of at least 3"
    return ""


def _fitted(steps: _Steps, prompts: bool, quantile: float) -> tuple[Regime, Fit]:
    """The regime, and its errors on steps left out, which also set its bound."""
    shape = _simplest(steps, prompts)
    folds = _folds(steps, by_length=prompts)
    left_out = _left_out(steps, folds, shape)
    ratios = steps.seconds / left_out
    bounds = [
        max(1.0, float(np.quantile(ratios[folds != fold], quantile))) for fold in range(FOLDS)
    ]
    covered = float((ratios <= np.array(bounds)[folds]).mean())
    columns = Columns.of(steps.mixes)
    found = _greatest(shape, columns, steps.seconds, np.ones(len(folds), dtype=bool))
    bound = max(1.0, float(np.quantile(ratios, quantile)))
    regime = shape.regime(found, float(columns.rows.max()), bound)
    return regime, _quality(left_out, steps.seconds, covered)


def _simplest(steps: _Steps, prompts: bool) -> Shape:
    """The simplest form that predicts left-out steps about as well as the best one does."""
    order = np.random.default_rng(0).permutation(len(steps.mixes))
    sample = np.zeros(len(order), dtype=bool)
    sample[order[:ENOUGH]] = True
    small = steps.part(sample)
    folds = _folds(small, by_length=False)
    shapes = _shapes(Columns.of(steps.mixes).rows, len(steps.mixes), prompts)
    errors = []
    for shape in shapes:
        left_out = _left_out(small, folds, shape)
        errors.append(float(np.minimum(np.abs(left_out / small.seconds - 1), 1).mean()))
    return next(s for s, e in zip(shapes, errors, strict=True) if e <= SIMPLER * min(errors))


def _folds(steps: _Steps, *, by_length: bool) -> Floats:
    """Which part of the steps each belongs to; every part is predicted by a fit of the others.

    By length, a prompt length lies in one part only where there are enough of them: chunks that
    serve will have lengths that nobody measured, and the bound has to cover them. The shortest
    and the longest are spread over all parts, as beyond the measured lengths nothing is promised.
    """
    every = np.arange(len(steps.mixes))
    lengths, groups = np.unique(Columns.of(steps.mixes).tokens, return_inverse=True)
    if by_length and len(lengths) >= 4 * FOLDS:
        inner = (groups > 0) & (groups < len(lengths) - 1)
        groups = np.where(inner, groups, len(lengths) + every)
    else:
        groups = every
    shuffled = np.random.default_rng(0).permutation(groups.max() + 1)
    folds: Floats = shuffled[groups] % FOLDS
    return folds


def _shapes(rows: Floats, steps: int, prompts: bool) -> list[Shape]:
    """Forms from the simplest to the richest that this many steps can carry."""
    coarse, fine = ladder(rows, fine=False), ladder(rows, fine=True)
    ladders = dict.fromkeys([(0.0,), coarse, fine] if prompts else [(0.0,), coarse])
    forms = [
        Shape(knots, pieces, bends, prompts)
        for pieces, bends in ((1, False), (1, True), (2, True), (3, True))
        for knots in ladders
    ]
    return [form for form in forms if form.coefficients <= steps / 3] or forms[:1]


def _left_out(steps: _Steps, folds: Floats, shape: Shape) -> Floats:
    """Every step's time as predicted by a fit that has not seen its part."""
    columns = Columns.of(steps.mixes)
    shared, own = shape.shared(columns), shape.own(columns)
    predicted = np.empty(len(steps.mixes))
    for fold in range(FOLDS):
        seen = folds != fold
        found = _greatest(shape, columns, steps.seconds, seen)
        predicted[~seen] = found.at(shared[~seen], own[~seen])
    return np.maximum(predicted, 1e-9)


def _greatest(shape: Shape, columns: Columns, seconds: Floats, seen: NDArray[np.bool_]) -> Greatest:
    shared, own = shape.shared(columns)[seen], shape.own(columns)[seen]
    ties = shape.ties(seconds)
    return greatest(shared, own, seconds[seen], pieces=shape.pieces, ties=ties)


def _quality(predicted: Floats, actual: Floats, coverage: float) -> Fit:
    errors = np.abs(predicted / actual - 1)
    p50, p90 = np.quantile(errors, (0.5, 0.9)).tolist()
    return Fit(steps=len(errors), mape=float(errors.mean()), p50=p50, p90=p90, coverage=coverage)


def _limits(mixes: Sequence[Mix]) -> Limits:
    most = {name: max(getattr(mix, name) for mix in mixes) for name in Limits.__slots__}
    return Limits(**most)
