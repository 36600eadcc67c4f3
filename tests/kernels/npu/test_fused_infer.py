"""The Ascend back end's calls, recorded and answered by a stand-in for torch_npu."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hfx.kernels as kernels
from hfx.kernels import AttentionSpec, KVCache, RaggedBatch
from hfx.kernels.fallback import TorchOperators
from hfx.kernels.npu import NpuOperators, tried

CPU = torch.device("cpu")
MIX = [(1, 1), (1, 130), (7, 7), (0, 5), (40, 300), (0, 0), (1, 128)]


def spec_of(**changes) -> AttentionSpec:
    plain = {"query_heads": 4, "kv_heads": 2, "head_size": 128, "page_tokens": 128}
    return AttentionSpec(**(plain | {"dtype": torch.bfloat16} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window": 50},
        {"window": 1},
        {"sinks": True},
        {"window": 200, "sinks": True, "query_heads": 8, "kv_heads": 1},
        {"head_size": 192, "page_tokens": 256, "scale": 0.05},
    ],
    ids=str,
)
def test_a_mixed_batch_is_one_call_that_keeps_every_rule(changes, recording, step_of, close):
    library = recording()
    operators = NpuOperators(CPU, library)
    step = step_of(operators, spec_of(**changes), MIX)

    answer = operators.attend(
        step.q_TNH, step.cache, operators.plan(step.spec, step.batch), sinks_N=step.sinks_N
    )

    close(answer, step.truth_TNH)
    assert len(library.named("fused_infer")) == 1


def test_lengths_are_cumulative_for_queries_and_plain_for_keys(recording, step_of):
    library = recording()
    operators = NpuOperators(CPU, library)
    step = step_of(operators, spec_of(), MIX)

    operators.attend(step.q_TNH, step.cache, operators.plan(step.spec, step.batch))

    (call,) = library.named("fused_infer")
    assert call["actual_seq_qlen"] == [1, 2, 9, 49, 50]  # those without a query are left out
    assert call["actual_seq_kvlen"] == [1, 130, 7, 300, 128]
    assert call["block_table"].tolist() == step.batch.table_SC[[0, 1, 2, 4, 6]].tolist()
    assert (call["sparse_mode"], call["block_size"]) == (3, 128)
    assert call["softmax_scale"] == pytest.approx(128**-0.5)


def test_a_window_is_a_band_that_counts_the_query_itself(recording, step_of):
    library = recording()
    operators = NpuOperators(CPU, library)
    step = step_of(operators, spec_of(window=50), [(3, 200)])

    operators.attend(step.q_TNH, step.cache, operators.plan(step.spec, step.batch))

    (call,) = library.named("fused_infer")
    assert (call["sparse_mode"], call["pre_tokens"], call["next_tokens"]) == (4, 49, 0)


def test_views_into_a_projection_are_made_contiguous_and_out_is_filled(recording, step_of, close):
    library = recording()
    operators = NpuOperators(CPU, library)
    step = step_of(operators, spec_of(), [(3, 200), (1, 5)])
    fused = torch.zeros(4, 8, 128, dtype=torch.bfloat16)
    fused[:, :4] = step.q_TNH
    out = torch.empty(4, 8, 128, dtype=torch.bfloat16)[:, 4:]

    answer = operators.attend(
        fused[:, :4], step.cache, operators.plan(step.spec, step.batch), out=out
    )

    assert answer.data_ptr() == out.data_ptr()
    close(out, step.truth_TNH)


def test_a_step_without_tokens_calls_nothing(recording):
    library = recording()
    operators = NpuOperators(CPU, library)
    batch = RaggedBatch(np.array([0, 0]), np.array([5]), np.array([[0]]), 128)
    q_TNH = torch.empty(0, 4, 128, dtype=torch.bfloat16)

    answer = operators.attend(
        q_TNH, operators.allocate_cache(spec_of(), 1), operators.plan(spec_of(), batch)
    )

    assert answer.shape == (0, 4, 128)
    assert not library.named("fused_infer")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": torch.float32}, "torch.bfloat16 and torch.float16, not in torch.float32"),
        ({"softcap": 3.0}, "has no soft-cap, 3.0 was asked for"),
        ({"head_size": 72}, "takes heads of 64, 80, 96, 128, 192, 256, not 72"),
        ({"page_tokens": 64}, "needs pages of a multiple of 128 tokens up to 512, not 64"),
        ({"query_heads": 130, "kv_heads": 2}, "groups of up to 64 heads, not 65"),
        ({"query_heads": 320, "kv_heads": 5}, "up to 256 query heads, not 320"),
        ({"head_size": 192, "sinks": True}, "sinks for heads of 64 and 128, not 192"),
        ({"dtype": torch.float16, "sinks": True}, "sinks in torch.bfloat16, not in torch.float16"),
        ({"cache_dtype": torch.int8}, "no caches of 8 bits in layout TND, torch.int8 was asked"),
        ({"cache_dtype": torch.float8_e4m3fn}, "no caches of 8 bits in layout TND"),
    ],
    ids=str,
)
def test_what_the_operator_does_not_take_is_objected_to(changes, says, recording):
    operators = NpuOperators(CPU, recording())

    assert says in str(operators.objection(spec_of(**changes)))
    with pytest.raises(ValueError, match=r"'fused_infer' .*'torch' takes anything"):
        operators.allocate_cache(spec_of(**changes), 1)


DISPUTED = [{"head_size": size} for size in (64, 80, 96, 192, 256)] + [{"dtype": torch.float16}]


@pytest.mark.parametrize("changes", DISPUTED, ids=str)
def test_what_only_some_texts_allow_is_done_where_the_library_does_it(
    changes, recording, step_of, close
):
    operators = tried(CPU, recording(text="cann"))
    step = step_of(operators, spec_of(**changes), MIX)

    assert operators.objection(step.spec) is None
    work = operators.plan(step.spec, step.batch)
    close(operators.attend(step.q_TNH, step.cache, work), step.truth_TNH)


@pytest.mark.parametrize("changes", DISPUTED, ids=str)
def test_and_objected_to_with_the_librarys_own_words_where_not(changes, recording):
    operators = tried(CPU, recording())

    objection = operators.objection(spec_of(**changes))

    if changes == {"head_size": 192}:  # this text allows it
        assert objection is None
    else:
        assert "here: it fails with RuntimeError: broken rule: " in str(objection)


def test_sequences_that_share_pages_are_called_in_groups_that_the_cache_could_hold(
    recording, step_of, close
):
    library = recording()
    operators = NpuOperators(CPU, library)
    step = step_of(operators, spec_of(), [(1, 300), (5, 290), (2, 260), (1, 400)])
    shared = step.batch.table_SC[:1].repeat(4, axis=0)
    batch = RaggedBatch(
        step.batch.query_starts, np.array([300, 300, 300, 300]), shared, step.spec.page_tokens
    )
    small = KVCache("fused_infer", step.spec, step.cache.k[:7], step.cache.v[:7])
    batch.table_SC[:] = [[6, 0, 3, 0]] * 4  # 3 pages each, 7 in all: two sequences a call
    small.k.nan_to_num_(), small.v.nan_to_num_()

    answer = operators.attend(step.q_TNH, small, operators.plan(step.spec, batch))

    plain = TorchOperators(CPU)
    close(answer, plain.attend(step.q_TNH, small, plain.plan(step.spec, batch)).double())
    calls = library.named("fused_infer")
    assert [call["actual_seq_qlen"] for call in calls] == [[1, 6], [2, 3]]


def test_steps_too_large_for_one_call_take_several(recording):
    library = recording()
    operators = NpuOperators(CPU, library)
    spec = spec_of(query_heads=1, kv_heads=1)
    many = RaggedBatch(np.arange(4099), np.ones(4098), np.zeros((4098, 1)), 128)
    cache = operators.allocate_cache(spec, 4098)
    q_TNH = torch.ones(4098, 1, 128, dtype=torch.bfloat16)

    answer = operators.attend(q_TNH, cache, operators.plan(spec, many))

    assert [len(call["actual_seq_qlen"]) for call in library.named("fused_infer")] == [4096, 2]
    assert answer.shape == q_TNH.shape


def test_fixed_splits_and_caches_beyond_its_addresses_are_refused(recording):
    operators = NpuOperators(CPU, recording())
    none = RaggedBatch(np.array([0]), [], np.empty((0, 1)), 128)

    with pytest.raises(ValueError, match="split_tokens is 128"):
        operators.plan(spec_of(), none, split_tokens=128)
    with pytest.raises(ValueError, match=r"pages is 65536: .* up to 65535 pages of 128 tokens"):
        operators.allocate_cache(spec_of(), 65536)


def test_the_stand_in_refuses_what_the_documentation_refuses(recording, step_of):
    library = recording()
    operators = NpuOperators(CPU, library)
    step = step_of(operators, spec_of(), [(3, 200), (1, 5)])
    operators.attend(step.q_TNH, step.cache, operators.plan(step.spec, step.batch))
    (call,) = library.named("fused_infer")
    wrong = {
        "cumulative": {"actual_seq_qlen": [3, 1]},
        "row a batch": {"block_table": call["block_table"][:1]},
        "2-D int32": {"block_table": call["block_table"].long()},
        "hides the future": {"atten_mask": ~call["atten_mask"]},
        "2048 x 2048": {"atten_mask": call["atten_mask"][:1024]},
        "contiguous": {"query": call["query"].transpose(0, 1).contiguous().transpose(0, 1)},
        "steps of 128": {"block_size": 64},
        "sink is bfloat16": {"learnable_sink": torch.zeros(4)},
        "precise mode": {"learnable_sink": torch.zeros(4).bfloat16(), "inner_precise": 1},
        "as many blocks": {
            "actual_seq_kvlen": [call["block_table"].shape[1] * 128] * 2,
            **{name: call[name][:2] for name in ("key", "value")},
        },
        "no quantised cache": {name: call[name].to(torch.int8) for name in ("key", "value")},
        "takes none of .*dequant_scale_key": {"dequant_scale_key": torch.ones(1)},
        "takes none of .*key_quant_mode": {"key_quant_mode": 5},
        "ends with T": {"actual_seq_qlen": [1, 3]},
        "q <= kv": {"actual_seq_kvlen": [2, 5]},
        "wide enough": {"block_table": call["block_table"][:, :1].contiguous()},
        "band isn't empty": {"sparse_mode": 4, "pre_tokens": 5, "next_tokens": -6},
        "mode 3 or 4": {"sparse_mode": 0},
    }

    for says, change in wrong.items():
        arguments = {name: x for name, x in (call | change).items() if x is not None}
        tensors = [arguments.pop(name) for name in ("query", "key", "value")]
        with pytest.raises(RuntimeError, match=says):
            library.npu_fused_infer_attention_score_v2(*tensors, **arguments)


@pytest.mark.parametrize("feature", ["window", "sinks"])
def test_a_feature_that_comes_out_wrong_at_start_up_is_refused_with_the_reason(feature, recording):
    operators = tried(CPU, recording(feature))
    asked = spec_of(window=50) if feature == "window" else spec_of(sinks=True)

    assert operators.objection(spec_of()) is None
    assert str(operators.objection(asked)).startswith(
        f"cannot do {feature} here: it differs from plain torch by up to "
    )


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("causal", "differs from plain torch by up to"),
        ("crash", "fails with RuntimeError: EZ9999: Inner Error!$"),
        ("npu_fused_infer_attention_score_v2", "fails with AttributeError"),
    ],
)
def test_a_back_end_whose_attention_fails_at_start_up_refuses_with_the_reason(
    fault, says, recording
):
    with pytest.raises(ImportError, match=f"needs torch_npu 2.13.0 and CANN: .*{says}"):
        tried(CPU, recording(fault))


def test_all_is_used_where_all_is_right(recording):
    operators = tried(CPU, recording(text="cann"))

    assert not operators._refused


def test_without_torch_npu_the_device_and_the_back_end_say_what_is_missing():
    with pytest.raises(RuntimeError, match="'npu:0' needs torch_npu"):
        kernels.select(device="npu:0")
    with pytest.raises(RuntimeError, match=r"fused_infer \(runs on npu, not on cpu\)"):
        kernels.select("fused_infer")


def test_small_operators_are_torch_npus_and_agree_with_plain_torch(recording):
    library = recording()
    ours, plain = NpuOperators(CPU, library), TorchOperators(CPU)
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(3)).bfloat16()
    weight = torch.linspace(0.5, 2, 256).bfloat16()
    sums = [x.clone(), x.clone()]

    normed = [
        each.rms_norm(x, weight, 1e-6, total, torch.empty_like(x))
        for each, total in zip((ours, plain), sums, strict=True)
    ]
    gated = [each.silu_mul(x, torch.empty(5, 128).bfloat16()) for each in (ours, plain)]

    torch.testing.assert_close(normed[0][0], normed[1][0], rtol=2**-7, atol=0)
    assert normed[0][1] is sums[0] and torch.equal(sums[0], sums[1])
    torch.testing.assert_close(gated[0], gated[1], rtol=2**-6, atol=1e-6)
    assert library.named("rms_norm") and library.named("swiglu")


@pytest.mark.parametrize("style", ["neox", "llama"])
def test_rotation_turns_strided_heads_in_place_by_the_planned_positions(style, recording):
    library = recording()
    ours, plain = NpuOperators(CPU, library), TorchOperators(CPU)
    batch = RaggedBatch(np.array([0, 1, 4]), np.array([9, 30]), np.array([[0], [1]]), 128)
    ours.plan(spec_of(), batch)
    table_PR = kernels.rope_table(64, 1e4, 40, None)  # half of a head
    one = torch.randn(4, 8, 128, generator=torch.Generator().manual_seed(2)).bfloat16()
    qkv = torch.stack((one, one))

    for each, fused in zip((ours, plain), qkv, strict=True):
        each.rope_(fused[:, :4], fused[:, 4:6], batch.positions_T, table_PR, style)

    torch.testing.assert_close(qkv[0], qkv[1], rtol=2**-7, atol=1e-3)
    assert [call["mode"] for call in library.named("rotary_mul")] == [
        "half" if style == "neox" else "interleave"
    ] * 2


def test_a_small_operator_that_is_wrong_is_replaced_by_plain_torch(recording):
    library = recording("rms_norm", "npu_swiglu")
    operators = tried(CPU, library)
    x, weight = torch.ones(2, 8).bfloat16(), torch.ones(8).bfloat16()
    calls = len(library.calls)

    assert operators.rms_norm(x, weight, 0.0)[0].tolist() == x.tolist()
    assert operators.silu_mul(x).shape == (2, 4)
    assert len(library.calls) == calls
