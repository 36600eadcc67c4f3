"""The steps that the attention benchmark times, with their tensors and what they must cost.

Dimensions: T new tokens, S sequences, C context tokens, N query heads, M key-value heads, H head
size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from hfx.kernels import AttentionSpec, KVCache, Operators, RaggedBatch, select

PAGE_TOKENS = {"cpu": 64, "cuda": 64, "npu": 128}  # the least that Ascend's attention takes
MEMORY_BYTES = 160 << 20  # of caches taken in turn: keys and values come from memory
TOLERANCE = {torch.bfloat16: 2e-2, torch.int8: 8e-2}  # by stored type, relative to 1 + |expected|
HEADS = {
    "8/2x128": (8, 2, 128),
    "32/8x128": (32, 8, 128),
    "64/8x128": (64, 8, 128),
    "8/8x128": (8, 8, 128),
    "9/3x64": (9, 3, 64),
}
Pairs = tuple[tuple[int, int], ...]  # (new tokens, tokens in cache before them) of each sequence


@dataclass(frozen=True, slots=True)
class Case:
    """A step's shape. `kind` says which roof is the nearer one: prompt, decode or mixed."""

    kind: str
    heads: str
    pairs: Pairs
    features: dict[str, Any] = field(default_factory=dict)  # further fields of the spec

    @property
    def name(self) -> str:
        """Heads, then the sequences, then the features."""
        counts = {pair: self.pairs.count(pair) for pair in self.pairs}
        parts = [f"{n}x({new}+{cached})" for (new, cached), n in counts.items()]
        parts += [f"{name}={_short(value)}" for name, value in self.features.items()]
        return " ".join([self.kind, self.heads, *parts])

    @property
    def group(self) -> int:
        """Query heads that share a key-value head."""
        query_heads, kv_heads, _ = HEADS[self.heads]
        return query_heads // kv_heads


DECODES: tuple[Pairs, ...] = (((1, 8191),) * 4, ((1, 1023),) * 16, ((1, 511),) * 48)
GUIDE = Case("prompt", "8/2x128", ((512, 1536),))  # the summary's prompt figures are its

CASES = (
    GUIDE,
    Case("prompt", "8/2x128", ((512, 0),)),
    Case("prompt", "8/8x128", ((256, 768),)),
    Case("prompt", "9/3x64", ((512, 0),)),
    *(
        Case("decode", heads, pairs)
        for heads in ("32/8x128", "64/8x128", "8/8x128")
        for pairs in DECODES
    ),
    Case("decode", "9/3x64", ((1, 287),) * 16),
    Case("mixed", "32/8x128", ((1, 1023),) * 8 + ((256, 256),)),
    Case("mixed", "9/3x64", ((1, 287),) * 8 + ((256, 0),)),
)
FEATURES = (
    Case("decode", "32/8x128", DECODES[1], {"cache_dtype": torch.int8}),
    Case("decode", "32/8x128", DECODES[1], {"softcap": 50.0, "sinks": True}),
    Case("decode", "32/8x128", DECODES[0], {"window": 4096}),
    Case("prompt", "8/2x128", GUIDE.pairs, {"cache_dtype": torch.int8}),
    Case("prompt", "8/2x128", GUIDE.pairs, {"softcap": 50.0, "sinks": True}),
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A case with its tensors: k and v [C, M, H] hold the contexts end to end."""

    spec: AttentionSpec
    batch: RaggedBatch
    q_TNH: torch.Tensor
    k_CMH: torch.Tensor
    v_CMH: torch.Tensor
    sinks_N: torch.Tensor | None

    @classmethod
    def of(cls, case: Case, device: str = "cpu") -> Inputs:
        """Random tensors, the same for the same case, on scattered pages."""
        generator = torch.Generator().manual_seed(0)
        spec = spec_of(case, device)
        batch = batch_of(case.pairs, spec.page_tokens)
        query_heads, kv_heads, head_size = spec.query_heads, spec.kv_heads, spec.head_size

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator).bfloat16().to(device)

        context = int(batch.context_lens_S.sum())
        return cls(
            spec,
            batch,
            random(batch.tokens, query_heads, head_size),
            random(context, kv_heads, head_size),
            random(context, kv_heads, head_size),
            torch.zeros(query_heads, device=device) if spec.sinks else None,
        )

    def cache(self, operators: Operators) -> KVCache:
        """A cache of that back end that holds the contexts."""
        cache = operators.allocate_cache(self.spec, int(self.batch.table_SC.max()) + 1)
        ends = np.cumsum(self.batch.context_lens_S)
        starts = np.concatenate(([0], ends))
        everything = RaggedBatch(
            starts, self.batch.context_lens_S, self.batch.table_SC, self.spec.page_tokens
        )
        operators.kv_write(cache, self.k_CMH, self.v_CMH, everything.slots_T)
        return cache

    def caches(self, operators: Operators) -> list[KVCache]:
        """So many that what was read of one is in no cache of the processor at its next turn."""
        return [self.cache(operators) for _ in range(1 + MEMORY_BYTES // self.kv_bytes)]

    def error(self, operators: Operators) -> float:
        """How far a back end is from float64, relative to 1 + |expected|.

        Raises:
            ArithmeticError: further than the stored type explains: it is not to be timed.
        """
        results = []
        for each in (operators, select("reference")):
            on_host = each.name == "reference"
            inputs = self.to("cpu") if on_host else self
            work = each.plan(self.spec, self.batch)
            out = each.attend(inputs.q_TNH, inputs.cache(each), work, sinks_N=inputs.sinks_N)
            results.append(out.cpu().double())
        off = float(((results[0] - results[1]).abs() / (1 + results[1].abs())).max())
        if not off < TOLERANCE[self.spec.stored_dtype]:
            raise ArithmeticError(f"{operators.name} is off by {off}: not timed")
        return off

    def on_pages_of(self, page_tokens: int) -> Inputs:
        """The same sequences on pages of that size."""
        spec = replace(self.spec, page_tokens=page_tokens)
        return replace(self, spec=spec, batch=batch_of(self.batch.pairs, page_tokens))

    def to(self, device: str) -> Inputs:
        """The same on another device."""
        sinks_N = None if self.sinks_N is None else self.sinks_N.to(device)
        tensors = (x.to(device) for x in (self.q_TNH, self.k_CMH, self.v_CMH))
        return Inputs(self.spec, self.batch, *tensors, sinks_N)

    @property
    def kv_bytes(self) -> int:
        """Keys and values that some query sees, each once."""
        lens_S = self.batch.context_lens_S.astype(np.int64)
        if self.spec.window:
            lens_S = np.minimum(lens_S, self.spec.window + self.batch.query_lens_S - 1)
        spec = self.spec
        return 2 * int(lens_S.sum()) * spec.kv_heads * spec.head_size * spec.stored_dtype.itemsize


def spec_of(case: Case, device: str = "cpu") -> AttentionSpec:
    """What the case asks of attention, with pages that the device's back ends take."""
    return AttentionSpec(*HEADS[case.heads], PAGE_TOKENS[device], torch.bfloat16, **case.features)


def batch_of(pairs: Sequence[tuple[int, int]], page_tokens: int) -> RaggedBatch:
    """The sequences on scattered pages."""
    query_lens = np.array([new for new, _ in pairs])
    context_lens = np.array([new + cached for new, cached in pairs])
    pages_S = -(-context_lens // page_tokens)
    pages = np.random.default_rng(0).permutation(int(pages_S.sum()))
    table = np.zeros((len(pairs), int(pages_S.max())), np.int32)
    for row, (count, last) in enumerate(zip(pages_S, np.cumsum(pages_S), strict=True)):
        table[row, :count] = pages[last - count : last]
    starts = np.concatenate(([0], np.cumsum(query_lens)))
    return RaggedBatch(starts, context_lens, table, page_tokens)


def _short(value: object) -> str:
    return str(value).removeprefix("torch.")
