"""Back ends whose attention is a call of someone else's library; the rest comes from another one.

Dimensions are those of `kernels.operators`. The cache is [pages, page_tokens, M, H].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from .batch import AttentionSpec, Int32Array, Int64Array, KVCache, RaggedBatch
from .draws import Draws
from .operators import Operators, RopeStyle
from .plan import WorkList


@dataclass(frozen=True, slots=True)
class Present:
    """The sequences of a batch that have new tokens: libraries disagree about those without.

    `query_ends_B` and `context_lens_B` are one number a sequence, `table_BC` one row.
    """

    query_ends_B: Int32Array
    context_lens_B: Int32Array
    table_BC: Int32Array

    @classmethod
    def of(cls, batch: RaggedBatch) -> Present:
        """Those of that batch, in order."""
        some_S = batch.query_lens_S > 0
        return cls(
            batch.query_starts[1:][some_S], batch.context_lens_S[some_S], batch.table_SC[some_S]
        )

    @property
    def query_starts(self) -> Int32Array:
        """Where each one's queries start, and where the last one's end."""
        return np.concatenate(([0], self.query_ends_B)).astype(np.int32)

    @property
    def most_queries(self) -> int:
        """The longest query."""
        return int(np.diff(self.query_starts).max(initial=0))


class LibraryOperators(Operators):
    """A library's attention beside the other operators of `rest`, which has the same cache.

    `refused` holds features, as `features_of` names them, that this machine's library gets wrong.
    """

    def __init__(
        self, rest: Operators, device: torch.device, refused: Mapping[str, str] | None = None
    ) -> None:
        self._rest = rest
        self.compiles = self.compiles or rest.compiles
        self.samples = rest.samples
        self._device = device
        self._refused = refused or {}

    @abstractmethod
    def rule(self, spec: AttentionSpec) -> str | None:
        """Which documented rule of the library the spec breaks, or None."""

    def features(self, spec: AttentionSpec) -> list[str]:
        """What the spec asks for, by the names that `refused` may have."""
        return features_of(spec)

    def objection(self, spec: AttentionSpec) -> str | None:
        rule = self.rule(spec)
        if rule is not None:
            return rule
        refused = (name for name in self.features(spec) if name in self._refused)
        return next((f"cannot do {name} here: it {self._refused[name]}" for name in refused), None)

    def allocate_cache(self, spec: AttentionSpec, pages: int) -> KVCache:
        objection = self.objection(spec)
        if objection is not None:
            raise ValueError(f"kernel back end {self.name!r} {objection}; 'torch' takes anything")
        cache = self._rest.allocate_cache(spec, pages)
        for x in (cache.k, cache.v):
            x.zero_()  # a library may multiply slots behind a context by 0, and 0 * NaN is NaN
        return replace(cache, backend=self.name)

    def kv_write(
        self, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: Int64Array
    ) -> None:
        self._rest.kv_write(cache, k_TMH, v_TMH, slots_T)

    def rms_norm(
        self,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._rest.rms_norm(x, weight_D, eps, residual, out)

    def rope_(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
    ) -> None:
        self._rest.rope_(q_TNH, k_TMH, positions_T, table_PR, style)

    def sample(self, logits_RV: torch.Tensor, draws: Draws) -> torch.Tensor:
        return self._rest.sample(logits_RV, draws)

    def silu_mul(self, gate_up_T2F: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return self._rest.silu_mul(gate_up_T2F, out)

    def _upload(self, values: Int32Array | Int64Array) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), device=self._device)


@dataclass(frozen=True, slots=True, eq=False)
class LibraryWork(WorkList):
    """A work list without tiles, and the sequences that have new tokens."""

    present: Present

    @classmethod
    def of(cls, spec: AttentionSpec, batch: RaggedBatch) -> LibraryWork:
        """The list of one step."""
        plain = WorkList.untiled(spec, batch)
        return cls(spec, batch, plain.items, plain.reductions, 0, 0, Present.of(batch))


def features_of(spec: AttentionSpec) -> list[str]:
    """What a spec asks for, by the names under which it is probed."""
    asked = {
        "window": spec.window > 0,
        "softcap": spec.softcap > 0,
        "sinks": spec.sinks,
        "int8 caches": spec.stored_dtype == torch.int8,
    }
    return ["causal attention", *(name for name, is_asked in asked.items() if is_asked)]


def probed_specs(plain: AttentionSpec, names: tuple[str, ...]) -> dict[str, AttentionSpec]:
    """A spec for each of those features, beside the plain one."""
    specs = {
        "causal attention": plain,
        "window": replace(plain, window=70),
        "softcap": replace(plain, softcap=2.0),
        "sinks": replace(plain, sinks=True),
        "int8 caches": replace(plain, cache_dtype=torch.int8),
    }
    return {name: specs[name] for name in ("causal attention", *names)}


def refuse_fixed_splits(name: str, split_tokens: int | None) -> None:
    """Libraries split as they see fit."""
    if split_tokens is not None:
        raise ValueError(
            f"split_tokens is {split_tokens}: kernel back end {name!r} splits as its library sees "
            "fit; take None, or another back end"
        )
