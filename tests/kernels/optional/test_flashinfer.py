"""The FlashInfer back end's calls, recorded and answered by a stand-in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hfx.kernels import AttentionSpec, RaggedBatch
from hfx.kernels.fallback import TorchOperators
from hfx.kernels.optional import flashinfer
from hfx.kernels.optional.flashinfer import FlashInferOperators

CPU = torch.device("cpu")
MIX = [(1, 1), (1, 130), (7, 7), (0, 5), (40, 300), (0, 0), (1, 64)]


def spec_of(**changes) -> AttentionSpec:
    plain = {"query_heads": 4, "kv_heads": 2, "head_size": 64, "page_tokens": 32}
    return AttentionSpec(**(plain | {"dtype": torch.bfloat16} | changes))


def operators_of(library) -> FlashInferOperators:
    return FlashInferOperators(TorchOperators(CPU), CPU, library)


@pytest.mark.parametrize(
    "changes",
    [{}, {"window": 1}, {"window": 50, "softcap": 3.0}, {"query_heads": 8, "scale": 0.2}],
    ids=str,
)
def test_a_mixed_batch_is_planned_once_and_run(changes, flashinfer_library, step_of, close):
    library = flashinfer_library()
    operators = operators_of(library)
    step = step_of(operators, spec_of(**changes), MIX)
    work = operators.plan(step.spec, step.batch)

    answers = [operators.attend(step.q_TNH, step.cache, work) for _ in range(2)]

    for answer in answers:
        close(answer, step.truth_TNH)
    (wrapper,) = library.wrappers
    (plan,) = wrapper.plans
    assert plan["starts"] == [0, 1, 2, 9, 49, 50]  # those without a query are left out
    assert plan["page_starts"] == [0, 1, 6, 7, 17, 19]
    assert plan["last"] == [1, 2, 7, 12, 32]
    assert plan["window_left"] == changes.get("window", 0) - 1


@pytest.mark.parametrize("window", [0, 50])
def test_sinks_go_to_the_wrapper_that_has_them(window, flashinfer_library, step_of, close):
    library = flashinfer_library()
    operators = operators_of(library)
    spec = spec_of(head_size=128, sinks=True, window=window, scale=0.1)
    step = step_of(operators, spec, MIX)
    work = operators.plan(spec, step.batch)

    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)

    (wrapper,) = library.wrappers
    assert type(wrapper).__name__ == "BatchAttentionWithAttentionSinkWrapper"
    assert wrapper.plans[0]["window_left"] == window - 1


def test_fixed_splits_are_refused_with_what_they_would_not_fix(flashinfer_library):
    batch = RaggedBatch(np.array([0]), np.array([]), np.empty((0, 1)), 32)

    with pytest.raises(ValueError, match=r"split_tokens is 64: .* rows of its tiles"):
        operators_of(flashinfer_library()).plan(spec_of(), batch, split_tokens=64)


def test_an_older_step_is_planned_again(flashinfer_library, step_of, close):
    library = flashinfer_library()
    operators = operators_of(library)
    first, second = (step_of(operators, spec_of(), lens) for lens in (MIX, [(2, 9)]))
    works = [operators.plan(spec_of(), step.batch) for step in (first, second)]

    for step, work in zip((first, second), works, strict=True):
        close(operators.attend(step.q_TNH, step.cache, work), step.truth_TNH)

    assert len(library.wrappers[0].plans) == 4


def test_specs_have_wrappers_of_their_own(flashinfer_library, step_of, close):
    library = flashinfer_library()
    operators = operators_of(library)
    steps = [step_of(operators, spec_of(window=window), MIX) for window in (0, 20)]
    works = [operators.plan(step.spec, step.batch) for step in steps]

    for step, work in zip(steps, works, strict=True):
        close(operators.attend(step.q_TNH, step.cache, work), step.truth_TNH)

    assert [len(wrapper.plans) for wrapper in library.wrappers] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": torch.float32}, "not in torch.float32"),
        ({"sinks": True}, "has sinks for a head size of 128 only, not 64"),
        ({"sinks": True, "head_size": 128, "softcap": 2.0}, "has no soft-cap beside sinks"),
        ({"head_size": 80}, "needs a head size of 64, 128, 256, not 80"),
        ({"cache_dtype": torch.int8}, "caches torch.bfloat16, not torch.int8"),
    ],
    ids=str,
)
def test_what_it_does_not_take_is_objected_to(changes, says, flashinfer_library):
    operators = operators_of(flashinfer_library())

    assert says in str(operators.objection(spec_of(**changes)))


def test_a_step_without_tokens_plans_and_runs_nothing(flashinfer_library):
    library = flashinfer_library()
    operators = operators_of(library)
    batch = RaggedBatch(np.array([0, 0]), np.array([5]), np.array([[0]]), 32)
    q_TNH = torch.empty(0, 4, 64, dtype=torch.bfloat16)
    cache = operators.allocate_cache(spec_of(), 1)

    assert operators.attend(q_TNH, cache, operators.plan(spec_of(), batch)).shape == (0, 4, 64)
    assert not library.wrappers


def test_a_trial_at_start_up_finds_what_is_wrong(flashinfer_library):
    right = flashinfer.tried(CPU, flashinfer_library())
    no_window = flashinfer.tried(CPU, flashinfer_library("window"))
    no_sinks = flashinfer.tried(CPU, flashinfer_library("sinks"))

    assert right.objection(spec_of(window=9)) is None
    assert right.objection(spec_of(head_size=128, sinks=True)) is None
    assert "do sinks here: it differs" in str(
        no_sinks.objection(spec_of(head_size=128, sinks=True))
    )
    assert "cannot do window here: it differs" in str(no_window.objection(spec_of(window=9)))


def test_a_library_without_the_wrapper_is_refused():
    with pytest.raises(ImportError, match="flashinfer fails with AttributeError"):
        flashinfer.tried(CPU, object())


def test_the_other_operators_are_those_of_the_rest(flashinfer_library):
    operators = operators_of(flashinfer_library())
    x = torch.ones(2, 8)

    assert operators.silu_mul(x).shape == (2, 4)
    assert operators.rms_norm(x, torch.ones(8), 0.0)[0].tolist() == x.tolist()
