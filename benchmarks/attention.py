"""Paged attention in C++ against torch's SDPA on gathered keys, and against the machine's roofs.

Correctness comes first: every mix is compared with the float64 reference before it is timed.
SDPA gets its keys and values already gathered and repeated per head, which paged attention does
within its time; its time is the sum over the sequences of the mix.

Dimensions: T new tokens, S sequences, N query heads, M key-value heads, H head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from hfx.bench.record import Record
from hfx.kernels import AttentionSpec, KVCache, Operators, RaggedBatch, select

from . import limits
from .record import finish, parser, print_rows
from .timing import medians_s

PAGE_TOKENS = 64
HEADS = {"smollm2": (9, 3, 64), "8b": (32, 8, 128)}
TOLERANCE = 2e-2  # relative to 1 + |expected|: a few bf16 roundings
CACHES = 8  # taken in turn, so that keys come from memory and not from a cache


@dataclass(frozen=True, slots=True)
class Mixed:
    """(new tokens, tokens in cache before them) of each sequence."""

    name: str
    pairs: tuple[tuple[int, int], ...]


MIXES = (
    Mixed("decode 1 x 512", ((1, 511),)),
    Mixed("decode 16 x 320", ((1, 319),) * 16),
    Mixed("decode 64 x 1024", ((1, 1023),) * 64),
    Mixed("prompt 512", ((512, 0),)),
    Mixed("chunk 256 behind 1792", ((256, 1792),)),
    Mixed("8 decodes + chunk 256", ((1, 511),) * 8 + ((256, 256),)),
)


def batch_of(pairs: tuple[tuple[int, int], ...], rng: np.random.Generator) -> RaggedBatch:
    """The mix on scattered pages."""
    query_lens = np.array([new for new, _ in pairs])
    context_lens = np.array([new + cached for new, cached in pairs])
    pages_S = -(-context_lens // PAGE_TOKENS)
    pages = rng.permutation(int(pages_S.sum()))
    table = np.zeros((len(pairs), int(pages_S.max())), np.int32)
    for row, (count, last) in enumerate(zip(pages_S, np.cumsum(pages_S), strict=True)):
        table[row, :count] = pages[last - count : last]
    starts = np.concatenate(([0], np.cumsum(query_lens)))
    return RaggedBatch(starts, context_lens, table, PAGE_TOKENS)


def fill(
    operators: Operators, cache: KVCache, batch: RaggedBatch, k_CMH: torch.Tensor, v: torch.Tensor
) -> None:
    """Put every sequence's context into its pages; rows of k and v are the contexts end to end."""
    ends = np.cumsum(batch.context_lens_S)
    everything = RaggedBatch(
        np.concatenate(([0], ends)), batch.context_lens_S, batch.table_SC, PAGE_TOKENS
    )
    operators.kv_write(cache, k_CMH, v, everything.slots_T)


def contexts_sdpa(
    batch: RaggedBatch, spec: AttentionSpec, q_TNH: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> Callable[[], list[torch.Tensor]]:
    """SDPA over every sequence, with keys, values and masks laid out beforehand."""
    calls = []
    for s, end in enumerate(np.cumsum(batch.context_lens_S)):
        context = int(batch.context_lens_S[s])
        q_NTH = q_TNH[batch.query_starts[s] : batch.query_starts[s + 1]].transpose(0, 1)
        keys, values = (
            x[end - context : end].transpose(0, 1).repeat_interleave(spec.group, 0) for x in (k, v)
        )
        new, is_whole = q_NTH.shape[1], q_NTH.shape[1] == context
        mask = None
        if 1 < new < context:
            mask = torch.ones(new, context, dtype=torch.bool).tril(context - new)
        calls.append((q_NTH.contiguous()[None], keys[None], values[None], mask, is_whole))
    return lambda: [
        scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        for q, k, v, mask, causal in calls
    ]


@dataclass(frozen=True, slots=True)
class Case:
    """A mix with its tensors: k and v hold the contexts end to end."""

    spec: AttentionSpec
    batch: RaggedBatch
    q_TNH: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    @classmethod
    def of(cls, mix: Mixed, heads: str) -> "Case":
        torch.manual_seed(0)
        query_heads, kv_heads, head_size = HEADS[heads]
        batch = batch_of(mix.pairs, np.random.default_rng(0))
        context = int(batch.context_lens_S.sum())
        q_TNH = torch.randn(batch.tokens, query_heads, head_size).bfloat16()
        k, v = (torch.randn(context, kv_heads, head_size).bfloat16() for _ in range(2))
        spec = AttentionSpec(query_heads, kv_heads, head_size, PAGE_TOKENS, torch.bfloat16)
        return cls(spec, batch, q_TNH, k, v)

    def cache(self, operators: Operators) -> KVCache:
        """A cache of that back end that holds the contexts."""
        cache = operators.allocate_cache(self.spec, int(self.batch.table_SC.max()) + 1)
        fill(operators, cache, self.batch, self.k, self.v)
        return cache

    def error(self, operators: Operators) -> float:
        """How far a back end is from float64, relative to 1 + |expected|."""
        results = []
        for each in (operators, select("reference")):
            work = each.plan(self.spec, self.batch)
            results.append(each.attend(self.q_TNH, self.cache(each), work).double())
        off = (results[0] - results[1]).abs() / (1 + results[1].abs())
        return float(off.max())


def measure(mix: Mixed, heads: str, roofs: limits.Limits, rounds: int) -> dict[str, Any]:
    """One row: the error, both times, the share of the nearer roof."""
    case, ours = Case.of(mix, heads), select("cpu")
    error = case.error(ours)
    if not error < TOLERANCE:
        raise SystemExit(f"{mix.name}, {heads}: off by {error}, more than {TOLERANCE}: not timed")
    caches = cycle([case.cache(ours) for _ in range(CACHES)])
    work, out = ours.plan(case.spec, case.batch), torch.empty_like(case.q_TNH)
    times = medians_s(
        {
            "paged": lambda: ours.attend(case.q_TNH, next(caches), work, out),
            "sdpa": contexts_sdpa(case.batch, case.spec, case.q_TNH, case.k, case.v),
        },
        rounds=rounds,
    )
    least_s = least_time_s(case.batch, case.spec, roofs)
    return {
        "heads": heads,
        "mix": mix.name,
        "error": error,
        "paged_us": times["paged"] * 1e6,
        "sdpa_us": times["sdpa"] * 1e6,
        "speedup": times["sdpa"] / times["paged"],
        "least_us": least_s * 1e6,
        "of_limit": least_s / times["paged"],
    }


def least_time_s(batch: RaggedBatch, spec: AttentionSpec, roofs: limits.Limits) -> float:
    """The larger of one read of keys and values and the visible pairs' products at GEMM speed."""
    read = 2 * int(batch.context_lens_S.sum()) * spec.kv_heads * spec.head_size * 2
    pairs = sum(new * cached + new * (new + 1) / 2 for new, cached in batch.pairs)
    flops = 4 * pairs * spec.query_heads * spec.head_size
    return max(read / roofs.read_bytes_per_s, flops / roofs.bf16_flops_per_s)


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    record = Record("attention")
    roofs = limits.measure(3 if options.quick else 7)
    rounds = 5 if options.quick else 30
    for heads in HEADS:
        for mix in MIXES:
            record.rows.append(measure(mix, heads, roofs, rounds))
    print_rows(record.rows)
    record.summary = {
        "read_gb_per_s": roofs.read_bytes_per_s / 1e9,
        "bf16_gflops_per_s": roofs.bf16_flops_per_s / 1e9,
        "least_speedup": min(row["speedup"] for row in record.rows),
        "least_of_limit": min(row["of_limit"] for row in record.rows),
    }
    finish(record, options)


if __name__ == "__main__":
    main()
