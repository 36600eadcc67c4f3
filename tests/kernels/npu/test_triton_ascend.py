"""The Triton kernel with Ascend's tiles, interpreted, against float64."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from hfx.kernels import AttentionSpec

DECODES = [(1, 1), (1, 300), (2, 140)]
PROMPTS = [(20, 20), (17, 140)]
MIX = [(1, 1), (1, 300), (17, 140), (0, 5)]
FEATURES = {"window": 70, "softcap": 3.0, "sinks": True}
QUANTISED = {"cache_dtype": torch.int8, "cache_scaling": "token"}


@pytest.fixture
def attending(ascend):
    """Makes those whose cache plain torch fills: the interpreter takes milliseconds a token."""
    return lambda cores=3: ascend(cores, {"kv_write": "is tested elsewhere"})


def spec_of(**changes) -> AttentionSpec:
    plain = {"query_heads": 4, "kv_heads": 2, "head_size": 64, "page_tokens": 128}
    return AttentionSpec(**(plain | {"dtype": torch.bfloat16} | changes))


@pytest.mark.parametrize(
    ("lens", "changes"),
    [(DECODES, {}), (PROMPTS, {}), (MIX, FEATURES)],
    ids=["decode", "prompt", "mixed"],
)
@pytest.mark.parametrize("size", [64, 80, 96, 128, 192, 256])
def test_every_specialisation_is_the_truth_for_every_head_size(
    lens, changes, size, attending, step_of, close
):
    operators = attending()
    step = step_of(operators, spec_of(head_size=size, **changes), lens)
    work = operators.plan(step.spec, step.batch)

    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)


@pytest.mark.parametrize("lens", [DECODES, PROMPTS, MIX], ids=["decode", "prompt", "mixed"])
@pytest.mark.parametrize(
    "changes",
    [
        {"head_size": 128},
        {"head_size": 80, **FEATURES},
        {"head_size": 96, "cache_scaling": "tensor"},
        {"head_size": 192, "dtype": torch.float16},
    ],
    ids=str,
)
def test_int8_caches_are_the_truth_of_what_they_store(lens, changes, attending, step_of, close):
    operators = attending()
    step = step_of(operators, spec_of(**(QUANTISED | changes)), lens)
    work = operators.plan(step.spec, step.batch)

    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)


def test_a_window_with_sinks_takes_the_tiles_that_leave_room_for_both(attending, step_of, close):
    operators = attending()
    spec = spec_of(head_size=128, window=70, sinks=True)
    step = step_of(operators, spec, PROMPTS)
    work = operators.plan(spec, step.batch)

    assert (work.launch.large_rows, work.launch.large_keys) == (32, 128)
    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)


@pytest.mark.parametrize(
    ("changes", "split_tokens", "slots"),
    [({}, 256, 4), ({"head_size": 80, **QUANTISED}, None, 3)],  # fixed: int8 has no small tiles
    ids=str,
)
def test_split_tiles_are_put_together_by_a_launch_of_its_own(
    changes, split_tokens, slots, attending, step_of, close
):
    operators = attending(cores=8)
    spec = spec_of(**({"dtype": torch.float16} | changes))
    step = step_of(operators, spec, [(1, 900), (1, 20)])
    work = operators.plan(step.spec, step.batch, split_tokens=split_tokens)

    assert work.slots == slots and work.reduces
    close(operators.attend(step.q_TNH, step.cache, work), step.truth_TNH)


def test_programs_are_one_a_cube_core_in_whatever_order(attending, program_order, step_of, close):
    operators = attending(cores=5)
    lens = [(1, 700), (1, 30), (18, 200), (3, 600), (1, 129)]
    step = step_of(operators, spec_of(sinks=True), lens)
    work = operators.plan(step.spec, step.batch)

    assert work.programs == 5 and work.slots
    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": torch.float32}, "not in torch.float32"),
        ({"cache_dtype": torch.float8_e4m3fn}, "has no float8_e4m3fn: store torch.int8"),
        ({"head_size": 112}, "has tiles for heads of 64, 80, 96, 128, 192, 256, not 112"),
        ({"page_tokens": 64}, "pages of a multiple of 128 tokens, not 64"),
        ({"query_heads": 40}, "groups of up to 16 heads, not 20"),
    ],
    ids=str,
)
def test_what_has_no_tiles_is_objected_to(changes, says, ascend):
    assert says in str(ascend().objection(spec_of(**changes)))


def test_what_a_device_gets_wrong_is_objected_to_with_the_reason(ascend):
    operators = ascend(refused={"int8 caches": "differs from plain torch by up to 3"})

    assert operators.objection(spec_of()) is None
    assert operators.objection(spec_of(**QUANTISED)) == (
        "cannot do int8 caches here: it differs from plain torch by up to 3"
    )
