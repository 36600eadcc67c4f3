"""The flash-attn back end's calls, recorded and answered by stand-ins for both generations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hfx.kernels as kernels
from hfx.kernels import AttentionSpec, RaggedBatch
from hfx.kernels.fallback import TorchOperators
from hfx.kernels.optional import flash_attn, rest
from hfx.kernels.optional.flash_attn import FlashAttentionOperators

CPU = torch.device("cpu")
MIX = [(1, 1), (1, 130), (7, 7), (0, 5), (40, 300), (0, 0), (1, 256)]
FEATURES = [{}, {"window": 1}, {"window": 50, "softcap": 3.0}, {"query_heads": 8, "scale": 0.2}]


def spec_of(**changes) -> AttentionSpec:
    plain = {"query_heads": 4, "kv_heads": 2, "head_size": 64, "page_tokens": 256}
    return AttentionSpec(**(plain | {"dtype": torch.bfloat16} | changes))


def operators_of(library, generation: int) -> FlashAttentionOperators:
    return FlashAttentionOperators(TorchOperators(CPU), CPU, library, generation)


@pytest.mark.parametrize("changes", FEATURES, ids=str)
def test_generation_2_takes_a_mixed_batch_in_one_call(changes, flash_attention_2, step_of, close):
    library = flash_attention_2()
    operators = operators_of(library, 2)
    step = step_of(operators, spec_of(**changes), MIX)

    answer = operators.attend(step.q_TNH, step.cache, operators.plan(step.spec, step.batch))

    close(answer, step.truth_TNH)
    (call,) = library.calls
    assert call["max_seqlen_k"] == 300
    window = changes.get("window", 0)
    assert call["window_size"] == ((window - 1, 0) if window else (-1, -1))


@pytest.mark.parametrize("changes", FEATURES, ids=str)
def test_generation_3_takes_a_mixed_batch_in_one_call(changes, flash_attention_3, step_of, close):
    operators = operators_of(flash_attention_3, 3)
    step = step_of(operators, spec_of(page_tokens=16, **changes), MIX)

    answer = operators.attend(step.q_TNH, step.cache, operators.plan(step.spec, step.batch))

    close(answer, step.truth_TNH)
    assert len(flash_attention_3.calls) == 1


def test_strided_queries_are_not_copied_and_out_is_filled(flash_attention_2, step_of, close):
    library = flash_attention_2()
    operators = operators_of(library, 2)
    step = step_of(operators, spec_of(), [(3, 200)])
    fused = torch.zeros(3, 8, 64, dtype=torch.bfloat16)
    fused[:, :4] = step.q_TNH
    out = torch.empty(3, 4, 64, dtype=torch.bfloat16)

    answer = operators.attend(
        fused[:, :4], step.cache, operators.plan(step.spec, step.batch), out=out
    )

    assert answer is out and library.calls[0]["q"].data_ptr() == fused.data_ptr()
    close(out, step.truth_TNH)


@pytest.mark.parametrize(
    ("generation", "changes", "says"),
    [
        (2, {"page_tokens": 128}, "pages of a multiple of 256 tokens, not 128"),
        (2, {"dtype": torch.float32}, "not in torch.float32"),
        (2, {"sinks": True}, "has no sinks"),
        (3, {"head_size": 264}, "a multiple of 8 up to 256, not 264"),
        (3, {"head_size": 20}, "a multiple of 8 up to 256, not 20"),
        (3, {"cache_dtype": torch.float8_e4m3fn}, "caches torch.bfloat16, not torch.float8_e4m3fn"),
    ],
    ids=str,
)
def test_what_it_does_not_take_is_objected_to(generation, changes, says, flash_attention_2):
    operators = operators_of(flash_attention_2(), generation)

    assert says in str(operators.objection(spec_of(**changes)))
    with pytest.raises(ValueError, match="'flash_attn'"):
        operators.allocate_cache(spec_of(**changes), 1)


def test_a_step_without_tokens_calls_nothing(flash_attention_2):
    library = flash_attention_2()
    operators = operators_of(library, 2)
    batch = RaggedBatch(np.array([0, 0]), np.array([5]), np.array([[0]]), 256)
    q_TNH = torch.empty(0, 4, 64, dtype=torch.bfloat16)
    cache = operators.allocate_cache(spec_of(), 1)

    assert operators.attend(q_TNH, cache, operators.plan(spec_of(), batch)).shape == (0, 4, 64)
    assert not library.calls


def test_fixed_splits_are_refused(flash_attention_2):
    batch = RaggedBatch(np.array([0]), np.array([]), np.empty((0, 1)), 256)

    with pytest.raises(ValueError, match="split_tokens is 256: kernel back end 'flash_attn'"):
        operators_of(flash_attention_2(), 2).plan(spec_of(), batch, split_tokens=256)


def test_a_trial_at_start_up_finds_what_is_wrong(flash_attention_2):
    right = flash_attn.tried(CPU, flash_attention_2(), 2)
    no_window = flash_attn.tried(CPU, flash_attention_2("window"), 2)

    assert right.objection(spec_of(window=9, softcap=2.0)) is None
    assert "cannot do window here: it differs" in str(no_window.objection(spec_of(window=9)))
    assert no_window.objection(spec_of()) is None
    with pytest.raises(ImportError, match="flash_attn differs from plain torch by up to"):
        flash_attn.tried(CPU, flash_attention_2("causal"), 2)


@pytest.mark.parametrize("name", ["flash_attn", "flashinfer"])
def test_named_and_absent_it_says_what_is_missing(name, monkeypatch):
    monkeypatch.setattr(rest, "find_spec", lambda module: None)
    with pytest.raises(RuntimeError, match=rf"{name} \(needs the module .*{name}: not installed\)"):
        kernels.select(name, device="cuda")

    monkeypatch.setattr(rest, "find_spec", lambda module: module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=rf"{name} \(finds no GPU"):
        kernels.select(name, device="cuda")
    with pytest.raises(RuntimeError, match=rf"{name} \(runs on cuda, not on cpu\)"):
        kernels.select(name)


def test_a_library_that_cannot_be_loaded_gives_every_reason():
    with pytest.raises(ImportError, match=r"importing no_such_a fails .*; importing no_such_b"):
        rest.first_library("no_such_a", "no_such_b")
