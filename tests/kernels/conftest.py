"""What every kernel test shares: the operators under test, and attention steps with known answers.

Dimensions are those of `hfx.kernels`: T new tokens, S sequences, N query and M key-value heads, H
head size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from hfx.kernels import AttentionSpec, KVCache, Operators, RaggedBatch, reference
from hfx.kernels.cpu import ISAS, CpuOperators, available_isas
from hfx.kernels.fallback import TorchOperators
from hfx.kernels.reference import ReferenceOperators

# (relative, absolute) for values of order 1: a few roundings of the type, and for bfloat16 also of
# the probabilities, which are rounded before they multiply values.
TOLERANCE = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (2e-6, 3e-6),
    torch.float16: (2.0**-10, 1.5e-3),
    torch.bfloat16: (2.0**-8, 5e-3),
}

LAUNCH_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


def assert_close(actual: torch.Tensor, truth: torch.Tensor) -> None:
    """Actual equals the float64 truth within its own type's tolerance."""
    relative, absolute = TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.double(), truth.double(), rtol=relative, atol=absolute)


def isa_params() -> list[object]:
    """Every instruction set, those that this processor lacks marked to be skipped."""
    return [
        pytest.param(
            isa,
            marks=pytest.mark.skipif(
                isa not in available_isas(), reason=f"this processor cannot run {isa}"
            ),
        )
        for isa in ISAS
    ]


def load(name: str) -> Operators:
    """The operators called so; an instruction set is the CPU's back end with it forced."""
    if name == "torch":
        return TorchOperators(torch.device("cpu"))
    return ReferenceOperators() if name == "reference" else CpuOperators(name, threads=2)


@pytest.fixture(params=[*isa_params(), "torch"])
def operators(request: pytest.FixtureRequest) -> Operators:
    """Each back end but the truth, the CPU's with each instruction set forced."""
    return load(request.param)


@pytest.fixture(params=[*isa_params(), "torch", "reference"])
def any_operators(request: pytest.FixtureRequest) -> Operators:
    """Each back end, the CPU's with each instruction set forced."""
    return load(request.param)


@pytest.fixture(params=isa_params())
def cpu_operators(request: pytest.FixtureRequest) -> CpuOperators:
    """The CPU's back end with each instruction set forced."""
    return CpuOperators(request.param, threads=2)


@pytest.fixture(autouse=True, scope="package")
def one_torch_thread() -> Iterator[None]:
    """Truths are small: waking threads for them costs more than computing them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def launches_with_known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton's interpreter drops, a compiler refuses: names that are no argument's."""
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if interpreter is None:
        return
    run = interpreter.InterpretedFunction.run

    def checked(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> Any:
        unknown = named.keys() - {*self.arg_names, *LAUNCH_OPTIONS}
        assert not unknown, f"{self.fn.__name__} has no {', '.join(unknown)}"
        return run(self, *args, grid=grid, warmup=warmup, **named)

    monkeypatch.setattr(interpreter.InterpretedFunction, "run", checked)


@dataclass(frozen=True, slots=True)
class Step:
    """A step whose history is in the cache already, and what attention must answer."""

    spec: AttentionSpec
    batch: RaggedBatch
    cache: KVCache
    q_TNH: torch.Tensor
    truth_TNH: torch.Tensor
    sinks_N: torch.Tensor | None


def take_step(
    operators: Operators, spec: AttentionSpec, lens: Sequence[tuple[int, int]], seed: int = 0
) -> Step:
    """Random sequences of (query, context) tokens in scattered pages of a cache full of NaN."""
    generator = torch.Generator().manual_seed(seed)
    context_lens_S = np.array([context for _, context in lens], np.int32)
    history_lens_S = context_lens_S - np.array([query for query, _ in lens], np.int32)
    columns = -(-int(context_lens_S.max(initial=1)) // spec.page_tokens)
    pages = len(lens) * columns + 3
    table_SC = np.random.default_rng(seed).permutation(pages)[: len(lens) * columns]
    table_SC = table_SC.reshape(len(lens), columns).astype(np.int32)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(spec.dtype)

    cache = operators.allocate_cache(spec, pages)
    poison(cache)
    keys = [random(context, spec.kv_heads, spec.head_size) for _, context in lens]
    values = [random(context, spec.kv_heads, spec.head_size) for _, context in lens]

    def batch_of(first: Sequence[int], last: Sequence[int]) -> RaggedBatch:
        starts = np.cumsum([0, *np.subtract(last, first)])
        batch = RaggedBatch(starts, np.asarray(last), table_SC, spec.page_tokens)
        pieces = [slice(*ends) for ends in zip(first, last, strict=True)]
        operators.kv_write(
            cache,
            torch.cat([k[piece] for k, piece in zip(keys, pieces, strict=True)]),
            torch.cat([v[piece] for v, piece in zip(values, pieces, strict=True)]),
            batch.slots_T,
        )
        return batch

    history = history_lens_S.tolist()
    batch_of([0] * len(lens), history)
    batch = batch_of(history, context_lens_S.tolist())
    q_TNH = random(batch.tokens, spec.query_heads, spec.head_size)
    sinks_N = torch.randn(spec.query_heads, generator=generator) if spec.sinks else None
    queries = torch.split(q_TNH, batch.query_lens_S.tolist())
    truths = [
        reference.attend(q, *(as_stored(x, cache) for x in (k, v)), spec, sinks_N)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return Step(spec, batch, cache, q_TNH, torch.cat(truths), sinks_N)


def poison(cache: KVCache) -> None:
    """NaN in every slot, or where the type has none, in its scale."""
    for x in (cache.k, cache.v):
        x.copy_(torch.full_like(x, torch.nan, dtype=torch.float32))
    for scale in (cache.k_scale, cache.v_scale):
        if scale is not None and scale.ndim > 1:
            scale.fill_(torch.nan)


def as_stored(x_TMH: torch.Tensor, cache: KVCache) -> torch.Tensor:
    """What those keys or values are once they were rounded to what the cache stores."""
    spec = cache.spec
    if not spec.is_quantised or cache.backend == "reference":
        return x_TMH
    stored = spec.stored_dtype
    limit = torch.finfo(stored).max if stored.is_floating_point else torch.iinfo(stored).max
    scale = torch.ones(1)
    if spec.cache_scaling == "token":
        scale = x_TMH.float().abs().amax(dim=-1, keepdim=True) / limit
    scaled = x_TMH.float() / scale
    return (scaled if stored.is_floating_point else scaled.round()).to(stored).float() * scale


@pytest.fixture
def step_of() -> Callable[..., Step]:
    """`take_step`, for tests that can't import this file."""
    return take_step


@pytest.fixture
def close() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """`assert_close`, for tests that can't import this file."""
    return assert_close
