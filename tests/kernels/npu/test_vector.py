"""The small Triton kernels as vector cores run them, interpreted, against plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from hfx.kernels import AttentionSpec, KVCache, RaggedBatch, rope_table
from hfx.kernels.draws import Draws
from hfx.kernels.fallback import TorchOperators
from hfx.kernels.npu.trial import wrong_small_operators

CPU = torch.device("cpu")
PLAIN = TorchOperators(CPU)
STORED = [(None, "token"), (torch.int8, "token"), (torch.int8, "tensor")]


def caches(operators, spec: AttentionSpec) -> tuple[KVCache, KVCache]:
    """Theirs and plain torch's, of 2 pages full of -7."""
    both = operators.allocate_cache(spec, 2), PLAIN.allocate_cache(spec, 2)
    for cache in both:
        for x in (cache.k, cache.v):
            x.fill_(-7)
        for scale in (cache.k_scale, cache.v_scale):
            if scale is not None and scale.ndim == 1:
                scale.fill_(0.02)
    return both


def assert_same(cache: KVCache, other: KVCache) -> None:
    for name in ("k", "v", "k_scale", "v_scale"):
        mine, theirs = getattr(cache, name), getattr(other, name)
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)


@pytest.mark.parametrize(("stored", "scaling"), STORED, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_tokens_land_in_their_slots_and_nowhere_else(ascend, dtype, stored, scaling):
    operators = ascend(cores=2)
    spec = AttentionSpec(6, 3, 80, 128, dtype, cache_dtype=stored, cache_scaling=scaling)
    cache, plain = caches(operators, spec)
    fused = torch.randn(11, 700).to(dtype)
    k_TMH, v_TMH = fused[:, 200:440].view(-1, 3, 80), fused[:, 450:690].view(-1, 3, 80)
    k_TMH[2, 1] = 0.0  # no scale to be found
    slots_T = np.array([3, 63, 16, 0, 31, 255, 100, 101, 102, 200, 8])

    operators.kv_write(cache, k_TMH, v_TMH, slots_T)

    PLAIN.kv_write(plain, k_TMH, v_TMH, slots_T)
    assert_same(cache, plain)


def test_heads_that_do_not_fit_at_once_are_taken_in_turn(ascend):
    operators = ascend(cores=1)
    spec = AttentionSpec(40, 40, 128, 128, torch.bfloat16)
    cache, plain = caches(operators, spec)
    k_TMH, v_TMH = (torch.randn(3, 40, 128).bfloat16() for _ in range(2))

    for each, where in ((operators, cache), (PLAIN, plain)):
        each.kv_write(where, k_TMH, v_TMH, np.array([5, 200, 0]))

    assert_same(cache, plain)


@pytest.mark.parametrize(("stored", "scaling"), STORED, ids=str)
@pytest.mark.parametrize(
    ("style", "rotary", "size"), [("neox", 128, 128), ("llama", 64, 64), ("neox", 48, 80)]
)
def test_rotating_and_writing_at_once_is_both_in_turn(ascend, stored, scaling, style, rotary, size):
    operators = ascend(cores=2)
    spec = AttentionSpec(
        20, 5, size, 128, torch.bfloat16, cache_dtype=stored, cache_scaling=scaling
    )
    together, apart = caches(operators, spec)[0], caches(operators, spec)[0]
    slots_T, positions_T = np.arange(3, 10), np.arange(7, dtype=np.int32) * 5
    table_PR = rope_table(rotary, 10000.0, 300)
    qkv = torch.randn(7, 30 * size).bfloat16()
    ours, theirs = (
        [part.unflatten(1, (-1, size)) for part in x.split([20 * size, 5 * size, 5 * size], dim=1)]
        for x in (qkv, qkv.clone())
    )

    operators.rope_kv_write(*ours, positions_T, table_PR, style, together, slots_T)
    operators.rope_(*theirs[:2], positions_T, table_PR, style)
    operators.kv_write(apart, *theirs[1:], slots_T)

    assert torch.equal(ours[0], theirs[0])
    assert_same(together, apart)


@pytest.mark.parametrize("style", ["neox", "llama"])
@pytest.mark.parametrize("rotary", [48, 80])
def test_rotation_in_place_is_plain_torchs(ascend, style, rotary):
    operators, fused = ascend(cores=2), torch.randn(5, 9 * 80).half()
    copy = fused.clone()
    positions_T = np.array([0, 7, 49, 3, 21], np.int32)
    table_PR = rope_table(rotary, 10000.0, 50)

    for each, rows in ((operators, fused), (PLAIN, copy)):
        heads = rows.view(5, 9, 80)
        each.rope_(heads[:, :6], heads[:, 6:], positions_T, table_PR, style)

    torch.testing.assert_close(fused, copy, rtol=1e-6, atol=1e-6)


def test_a_planned_steps_positions_and_slots_are_read_from_the_device(ascend, step_of):
    operators = ascend(cores=2)
    spec = AttentionSpec(2, 1, 64, 128, torch.bfloat16)
    batch = RaggedBatch(np.array([0, 2]), np.array([130]), np.array([[1, 0]]), 128)
    work = operators.plan(spec, batch)

    assert operators._on_device(batch.positions_T) is work.positions_T
    assert operators._on_device(batch.slots_T) is work.slots_T
    assert operators._on_device(batch.slots_T.copy()).tolist() == [0, 1]


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("width", [64, 100])
def test_norms_are_plain_torchs_and_residuals_are_added_in_place(ascend, heads, width):
    operators = ascend(cores=2)
    fused = torch.randn(5, 400).bfloat16()
    x = fused[:, 20 : 20 + heads * width]
    x = x if heads == 1 else x.unflatten(1, (heads, width))
    weight, total = torch.rand(width).bfloat16(), torch.randn(5, width).bfloat16()
    ours, theirs = total.clone(), total.clone()

    pairs = [each.rms_norm(x, weight, 1e-5) for each in (operators, PLAIN)]
    if heads == 1:
        pairs += [
            each.rms_norm(x, weight, 1e-5, sums)
            for each, sums in ((operators, ours), (PLAIN, theirs))
        ]

    assert torch.equal(ours, theirs)
    for mine, plain in zip(pairs[::2], pairs[1::2], strict=True):
        torch.testing.assert_close(mine[0], plain[0], rtol=2**-7, atol=1e-6)
    assert pairs[0][1] is x


def test_a_norm_wider_than_a_core_holds_is_plain_torchs(ascend, monkeypatch):
    operators = ascend(cores=2)
    monkeypatch.setattr("hfx.kernels.npu.vector.VectorCores.rms_norm", None)  # not to be called
    x, weight = torch.randn(2, 8200).bfloat16(), torch.ones(8200).bfloat16()

    normed, left = operators.rms_norm(x, weight, 1e-5)

    assert torch.equal(normed, PLAIN.rms_norm(x, weight, 1e-5)[0])
    assert left is x


@pytest.mark.parametrize("width", [33, 5000])
def test_gates_open_as_in_plain_torch(ascend, width):
    operators = ascend(cores=2)
    gate_up = torch.randn(3, 2 * width + 6).half()[:, : 2 * width]
    out = torch.empty(3, width, dtype=torch.float16)

    assert operators.silu_mul(gate_up, out) is out
    torch.testing.assert_close(out, PLAIN.silu_mul(gate_up), rtol=2**-9, atol=1e-6)


def test_steps_without_tokens_launch_nothing(ascend):
    operators = ascend()
    spec = AttentionSpec(2, 1, 64, 128, torch.bfloat16)
    cache, table = operators.allocate_cache(spec, 1), rope_table(64, 1e4, 8)
    none, slots = torch.empty(0, 1, 64).bfloat16(), np.empty(0, np.int64)
    positions = np.empty(0, np.int32)

    operators.kv_write(cache, none, none, slots)
    operators.rope_(none, none, positions, table, "neox")
    operators.rope_kv_write(none, none, none, positions, table, "neox", cache, slots)

    assert operators.rms_norm(torch.empty(0, 8), torch.ones(8), 1e-5)[0].shape == (0, 8)
    assert operators.silu_mul(torch.empty(0, 8)).shape == (0, 4)
    assert operators.sample(torch.empty(0, 8), None).shape == (0,)


def draws_of(rows: int, **asked: list[float]) -> Draws:
    columns = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 7, "step": 0}
    values = {name: asked.get(name, [value] * rows) for name, value in columns.items()}
    return Draws(
        *(torch.tensor(values[name]).float() for name in ("temperature",)),
        torch.tensor(values["top_k"], dtype=torch.int32),
        torch.tensor(values["top_p"]).float(),
        torch.tensor(values["min_p"]).float(),
        torch.tensor(values["seed"], dtype=torch.int64),
        torch.tensor(values["step"], dtype=torch.int32),
    )


def test_tokens_are_drawn_as_the_gpus_sampler_draws_them(ascend):
    from hfx.kernels.gpu.sample import sample

    logits = torch.randn(4, 2500, generator=torch.Generator().manual_seed(5)) * 3
    asked = draws_of(4, temperature=[0.0, 1.0, 0.7, 1.0], top_k=[0, 5, 0, 0], step=[0, 1, 2, 3])

    tokens = ascend().sample(logits, asked)

    assert tokens.tolist() == sample(logits, asked).tolist()
    assert tokens[0] == logits[0].argmax()
    assert tokens[1] in logits[1].topk(5).indices


@pytest.mark.parametrize(
    ("broken", "named"),
    [("kv_write", "kv_write"), ("rope", "rope_kv_write"), ("sample", "sample")],
)
def test_a_small_operator_that_is_wrong_on_a_device_is_found_and_replaced(
    broken, named, ascend, monkeypatch
):
    def crash(*_: object) -> None:
        raise RuntimeError("MLIRCompilationError")

    assert wrong_small_operators(ascend(), PLAIN, CPU) == {}
    monkeypatch.setattr(f"hfx.kernels.npu.vector.VectorCores.{broken}", crash)

    wrong = wrong_small_operators(ascend(), PLAIN, CPU)
    assert wrong[named] == "fails with RuntimeError: MLIRCompilationError"

    operators = ascend(refused=wrong)
    assert wrong_small_operators(operators, PLAIN, CPU) == {}
    assert operators.samples == (broken != "sample")
