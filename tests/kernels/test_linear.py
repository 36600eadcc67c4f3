"""Packed linear layers against float64, every back end and instruction set."""

from __future__ import annotations

import pytest
import torch

from hfx.kernels import Operators, linear, reference

DTYPES = [torch.float32, torch.bfloat16]
ROWS = [1, 2, 5, 12, 13, 16, 97, 200]  # around the row block (12) and the task (96)


def layer(outputs: int, inputs: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and a bias whose products are of order 1."""
    weight_OI = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype)
    return weight_OI, torch.randn(outputs).to(dtype)


def gated_close(y: torch.Tensor, truth: torch.Tensor) -> None:
    """Within a few roundings of y's type: unfused, gate, up and silu(gate) are rounded too."""
    bound = 16 * torch.finfo(y.dtype).eps if y.dtype == torch.float32 else 3e-2
    torch.testing.assert_close(y.double(), truth, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_a_product_is_the_truth_at_every_number_of_rows(operators: Operators, rows, dtype, close):
    weight_OI, _ = layer(96, 64, dtype)
    x_TI = torch.randn(rows, 64).to(dtype)

    y_TO = operators.linear(x_TI, operators.pack_linear(weight_OI))

    close(y_TO, reference.linear(x_TI, weight_OI))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("outputs", [1, 31, 32, 33, 70, 129])
def test_outputs_need_not_fill_a_panel(operators: Operators, outputs, dtype, close):
    weight_OI, bias_O = layer(outputs, 48, dtype)
    x_TI = torch.randn(7, 48).to(dtype)
    guarded = torch.full((7, outputs + 3), torch.nan, dtype=dtype)

    operators.linear(x_TI, operators.pack_linear(weight_OI, bias_O), out=guarded[:, :outputs])

    close(guarded[:, :outputs].contiguous(), reference.linear(x_TI, weight_OI, bias_O))
    assert guarded[:, outputs:].isnan().all(), "wrote past the last output"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("rows", [1, 17])
def test_a_gated_layer_is_silu_of_the_gates_times_the_rest(
    operators: Operators, rows, bias, dtype, close
):
    weight_OI, bias_O = layer(192, 64, dtype)
    x_TI = torch.randn(rows, 64).to(dtype)
    product_TO = reference.linear(x_TI, weight_OI, bias_O if bias else None)

    weights = operators.pack_linear(weight_OI, bias_O if bias else None, gated=True)
    y_TF = operators.linear(x_TI, weights)

    assert y_TF.shape == (rows, weights.width) == (rows, 96)
    gated_close(y_TF, reference.silu_mul(product_TO))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gate_saturates_without_overflow(operators: Operators, dtype):
    weight_OI = torch.cat((torch.eye(32), torch.ones(32, 32))).to(dtype)
    x_TI = torch.full((1, 32), 3.0, dtype=dtype) * torch.tensor([1e4, -1e4] * 16, dtype=dtype)
    x_TI[0, -1] = 3e4  # not the negative of its neighbour: the ups are not zero

    y_TF = operators.linear(x_TI, operators.pack_linear(weight_OI, gated=True))

    assert y_TF.isfinite().all()
    assert (y_TF[0, 1:-1:2].abs() < 1e-20).all(), "silu of a large negative number is 0"


def test_rows_may_be_strided(operators: Operators, close):
    weight_OI, _ = layer(40, 32, torch.float32)
    wide = torch.randn(9, 100)

    y_TO = operators.linear(wide[:, 20:52], operators.pack_linear(weight_OI))

    close(y_TO, reference.linear(wide[:, 20:52], weight_OI))


def test_a_float32_result_of_bfloat16_is_not_rounded(operators: Operators):
    weight_OI, _ = layer(64, 64, torch.bfloat16)
    x_TI = torch.randn(3, 64).to(torch.bfloat16)
    out = torch.empty(3, 64)

    operators.linear(x_TI, operators.pack_linear(weight_OI), out=out)

    truth = reference.linear(x_TI, weight_OI)
    bound = 2e-6 if operators.name == "cpu" else 2.0**-7  # torch rounds before it widens
    torch.testing.assert_close(out.double(), truth, rtol=bound, atol=bound)


@pytest.mark.parametrize(("outputs", "inputs", "gated"), [(8, 33, False), (40, 32, True)])
def test_a_weight_that_cannot_be_packed_is_multiplied_all_the_same(
    operators: Operators, outputs, inputs, gated, close
):
    weight_OI, _ = layer(outputs, inputs, torch.bfloat16)
    x_TI = torch.randn(4, inputs).to(torch.bfloat16)
    product_TO = reference.linear(x_TI, weight_OI)

    y = operators.linear(x_TI, operators.pack_linear(weight_OI, gated=gated))

    if gated:
        gated_close(y, reference.silu_mul(product_TO))
    else:
        close(y, product_TO)


def test_the_public_function_names_the_argument_that_does_not_fit():
    with pytest.raises(ValueError, match=r"weight_OI.*\[8, 5\].*\[8, 4\]"):
        linear(torch.zeros(2, 4), torch.zeros(8, 5))
