"""Rotary tables and rotations against transformers' and against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from hfx.kernels import RopeScaling, reference, rope_table

DTYPES = [torch.float32, torch.bfloat16]
POSITIONS = 5000
SCALINGS = {
    "default": ({"rope_type": "default"}, None),
    "linear": ({"rope_type": "linear", "factor": 4.0}, RopeScaling(kind="linear", factor=4.0)),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        RopeScaling(kind="llama3", factor=8.0, original_max_positions=8192),
    ),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
        RopeScaling(kind="yarn", factor=4.0, original_max_positions=2048),
    ),
    "yarn with mscale": (
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 16,
            "beta_slow": 2,
            "mscale": 0.7,
            "mscale_all_dim": 1.2,
            "truncate": False,
        },
        RopeScaling(
            kind="yarn",
            factor=40.0,
            original_max_positions=4096,
            beta_fast=16,
            beta_slow=2,
            mscale=0.7,
            mscale_all_dim=1.2,
            truncate=False,
        ),
    ),
    "dynamic": (
        {"rope_type": "dynamic", "factor": 2.0},
        RopeScaling(kind="dynamic", factor=2.0, original_max_positions=2048),
    ),
}


def transformers_table(parameters: dict[str, object], base: float, head_size: int) -> torch.Tensor:
    """Cosines and sines of all positions, side by side, one of each pair."""
    config = LlamaConfig(
        hidden_size=4 * head_size,
        num_attention_heads=4,
        max_position_embeddings=2048,
        rope_parameters={"rope_theta": base, **parameters},
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(POSITIONS)[None])
    half = head_size // 2
    return torch.cat((cos[0, :, :half], sin[0, :, :half]), dim=1)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize(("base", "head_size"), [(10000.0, 64), (500000.0, 128)])
def test_tables_are_those_of_transformers(name, base, head_size):
    parameters, scaling = SCALINGS[name]

    table_PR = rope_table(head_size, base, POSITIONS, scaling)

    assert table_PR.dtype == torch.float32
    expected = transformers_table(parameters, base, head_size)
    # an angle is position * frequency: one rounding of a frequency moves it by 5000 * 2^-24
    torch.testing.assert_close(table_PR, expected, rtol=0.0, atol=7e-4)
    torch.testing.assert_close(table_PR[:64], expected[:64], rtol=1e-5, atol=1e-5)


def test_dynamic_scaling_leaves_what_fits_alone():
    scaling = RopeScaling(kind="dynamic", factor=2.0, original_max_positions=2048)

    assert torch.equal(rope_table(64, 10000.0, 2048, scaling), rope_table(64, 10000.0, 2048))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "longrope"}, "kind is 'longrope'"),
        ({"kind": "yarn", "factor": 2.0}, "needs original_max_positions"),
        ({"kind": "linear", "factor": 0.0}, "factor is 0.0"),
        (
            {"kind": "llama3", "original_max_positions": 8, "high_freq_factor": 1.0},
            "high_freq_factor",
        ),
    ],
)
def test_impossible_scalings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RopeScaling(**arguments)


@pytest.mark.parametrize(("rotary", "positions"), [(63, 10), (0, 10), (64, 0)])
def test_impossible_tables_are_refused(rotary, positions):
    with pytest.raises(ValueError, match="it must be"):
        rope_table(rotary, 10000.0, positions)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("style", ["neox", "llama"])
@pytest.mark.parametrize(("head_size", "rotary"), [(64, 64), (80, 32), (128, 128), (24, 12)])
@pytest.mark.parametrize("tokens", [1, 60])
def test_rotation_is_the_truth(operators, dtype, style, head_size, rotary, tokens, close):
    torch.manual_seed(rotary)
    qk = torch.randn(tokens, 8, head_size).to(dtype)
    fused = torch.cat((qk, torch.full_like(qk, torch.nan)), dim=1)
    q_TNH, k_TMH = fused[:, :5], fused[:, 5:8]
    positions_T = np.random.default_rng(0).integers(0, 900, tokens).astype(np.int32)
    table_PR = rope_table(rotary, 10000.0, 900)

    operators.rope_(q_TNH, k_TMH, positions_T, table_PR, style)

    close(torch.cat((q_TNH, k_TMH), dim=1), reference.rope(qk, positions_T, table_PR, style))
    assert fused[:, 8:].isnan().all()


def test_neox_rotation_is_that_of_transformers(operators, close):
    torch.manual_seed(0)
    q_TNH, k_TMH = torch.randn(11, 4, 64), torch.randn(11, 2, 64)
    config = LlamaConfig(hidden_size=256, num_attention_heads=4)
    cos, sin = LlamaRotaryEmbedding(config)(q_TNH, torch.arange(11)[None])
    heads_first = [x.transpose(0, 1)[None] for x in (q_TNH.double(), k_TMH.double())]
    expected = [x[0].transpose(0, 1) for x in apply_rotary_pos_emb(*heads_first, cos, sin)]

    operators.rope_(
        q_TNH, k_TMH, np.arange(11, dtype=np.int32), rope_table(64, 10000.0, 11), "neox"
    )

    close(q_TNH, expected[0])
    close(k_TMH, expected[1])
