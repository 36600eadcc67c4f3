"""The Triton kernel with Ascend's tiles, interpreted, against float64."""

from __future__ import annotations

import os

import pytest
import torch

os.environ["TRITON_INTERPRET"] = "1"  # triton reads it at its first import
pytest.importorskip("triton")

from hfx.kernels import AttentionSpec
from hfx.kernels.npu.attend import AscendTritonOperators

CPU = torch.device("cpu")
DECODES = [(1, 1), (1, 300), (2, 140)]
PROMPTS = [(20, 20), (17, 140)]
MIX = [(1, 1), (1, 300), (17, 140), (0, 5)]


def operators_of(cores: int = 3) -> AscendTritonOperators:
    return AscendTritonOperators(CPU, cores, interpreted=True)


def spec_of(**changes) -> AttentionSpec:
    plain = {"query_heads": 4, "kv_heads": 2, "head_size": 64, "page_tokens": 128}
    return AttentionSpec(**(plain | {"dtype": torch.bfloat16} | changes))


@pytest.mark.parametrize(
    ("lens", "changes"),
    [(DECODES, {}), (PROMPTS, {}), (MIX, {"window": 70, "softcap": 3.0, "sinks": True})],
    ids=["decode", "prompt", "mixed"],
)
def test_every_specialisation_is_the_truth(lens, changes, step_of, close):
    operators = operators_of()
    step = step_of(operators, spec_of(**changes), lens)
    work = operators.plan(step.spec, step.batch)

    close(operators.attend(step.q_TNH, step.cache, work, sinks_N=step.sinks_N), step.truth_TNH)


def test_split_tiles_are_put_together(step_of, close):
    operators = operators_of(cores=8)
    step = step_of(operators, spec_of(dtype=torch.float16), [(1, 900), (1, 20)])
    work = operators.plan(step.spec, step.batch, split_tokens=256)

    assert work.slots == 4
    close(operators.attend(step.q_TNH, step.cache, work), step.truth_TNH)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"dtype": torch.float32}, "not in torch.float32"),
        ({"cache_dtype": torch.int8}, "not torch.int8"),
        ({"head_size": 96}, "has tiles for heads of 64, 128, 256, not 96"),
        ({"page_tokens": 64}, "pages of a multiple of 128 tokens, not 64"),
        ({"query_heads": 40}, "groups of up to 16 heads, not 20"),
    ],
    ids=str,
)
def test_what_has_no_tiles_is_objected_to(changes, says):
    assert says in str(operators_of().objection(spec_of(**changes)))
