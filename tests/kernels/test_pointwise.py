"""RMSNorm and SiLU-mul against float64, and against the rounding of Hugging Face's models."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hfx.kernels import reference

DTYPES = [torch.float32, torch.bfloat16]
WIDTHS = [1, 5, 16, 40, 576, 1000]


def norm_as_transformers(x: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    module = LlamaRMSNorm(len(weight_D), eps).to(x.dtype)
    module.weight.data.copy_(weight_D)
    with torch.no_grad():
        return module(x)


def assert_same_but_for_ties(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Bit for bit; sums in another order may move one value in ten thousand to its neighbour."""
    differs = actual != expected
    assert differs.float().mean() < 1e-4
    torch.testing.assert_close(actual, expected, rtol=2.0**-7, atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_norm_is_the_truth(operators, dtype, width, close):
    torch.manual_seed(width)
    x_TD, weight_D = torch.randn(7, width).to(dtype), torch.randn(width).to(dtype)

    y_TD, residual = operators.rms_norm(x_TD, weight_D, 1e-5)

    assert residual is x_TD
    relative = 2.0**-7 if dtype == torch.bfloat16 else 2e-6
    truth = reference.rms_norm(x_TD, weight_D, 1e-5)
    torch.testing.assert_close(y_TD.double(), truth, rtol=relative, atol=1e-9)


@pytest.mark.parametrize("width", [64, 576])
def test_norm_rounds_where_transformers_does(cpu_operators, width):
    torch.manual_seed(width)
    x_TD = (torch.randn(400, width) * 3).bfloat16()
    weight_D = torch.randn(width).bfloat16()

    y_TD, _ = cpu_operators.rms_norm(x_TD, weight_D, 1e-5)

    assert_same_but_for_ties(y_TD, norm_as_transformers(x_TD, weight_D, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 300])
def test_norm_adds_to_the_residual_first(any_operators, dtype, rows):
    torch.manual_seed(rows)
    fused = torch.randn(rows, 1200).to(dtype)
    x_TD, weight_D = fused[:, 50:626], torch.randn(576).to(dtype)
    residual_TD = torch.randn(rows, 576).to(dtype)
    total_TD = residual_TD + x_TD

    y_TD, residual = any_operators.rms_norm(x_TD, weight_D, 1e-5, residual=residual_TD)

    assert residual is residual_TD
    assert torch.equal(residual, total_TD)
    assert torch.equal(y_TD, any_operators.rms_norm(total_TD, weight_D, 1e-5)[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_of_heads_works_in_place_on_a_view(any_operators, dtype):
    torch.manual_seed(0)
    qkv = torch.randn(9, 15 * 64).to(dtype)
    weight_D = torch.randn(64).to(dtype)
    q_TNH = qkv[:, 64 : 10 * 64].view(9, 9, 64)
    untouched = qkv.clone()
    expected, _ = any_operators.rms_norm(q_TNH.reshape(81, 64), weight_D, 1e-6)

    y_TNH, _ = any_operators.rms_norm(q_TNH, weight_D, 1e-6, out=q_TNH)

    assert y_TNH is q_TNH
    assert torch.equal(y_TNH.reshape(81, 64), expected)
    assert torch.equal(qkv[:, :64], untouched[:, :64])
    assert torch.equal(qkv[:, 10 * 64 :], untouched[:, 10 * 64 :])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_silu_mul_is_the_truth(operators, dtype, width):
    torch.manual_seed(width)
    gate_up_T2F = (torch.randn(6, 2 * width) * 4).to(dtype)

    y_TF = operators.silu_mul(gate_up_T2F)

    relative = 2.0**-7 if dtype == torch.bfloat16 else 3e-6
    truth = reference.silu_mul(gate_up_T2F)
    torch.testing.assert_close(y_TF.double(), truth, rtol=relative, atol=1e-9)


def test_silu_mul_rounds_where_transformers_does(cpu_operators):
    torch.manual_seed(0)
    gate_up_T2F = (torch.randn(200, 3072) * 3).bfloat16()
    gate, up = gate_up_T2F.chunk(2, dim=-1)

    y_TF = cpu_operators.silu_mul(gate_up_T2F)

    assert_same_but_for_ties(y_TF, torch.nn.functional.silu(gate) * up)


def test_silu_mul_is_finite_at_the_ends_of_the_range(any_operators):
    gate_up = torch.tensor([[-3e38, -200.0, -90.0, 0.0, 90.0, 3e38] + [1.0] * 6])

    y = any_operators.silu_mul(gate_up)

    torch.testing.assert_close(
        y, torch.tensor([[0.0, 0.0, 0.0, 0.0, 90.0, 3e38]]), atol=1e-5, rtol=1e-6
    )


def test_results_go_where_they_are_asked_to(any_operators):
    gate_up_T2F = torch.randn(3, 32)
    wide = torch.zeros(3, 50)

    result = any_operators.silu_mul(gate_up_T2F, out=wide[:, 10:26])

    assert torch.equal(result, wide[:, 10:26])
    assert torch.equal(result, any_operators.silu_mul(gate_up_T2F))
    assert not wide[:, :10].any()
    assert not wide[:, 26:].any()
