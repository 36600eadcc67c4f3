"""The checked operators work as the unchecked ones do, and name the argument that is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import hfx.kernels as kernels
from hfx.kernels import AttentionSpec, rope_table

SPEC = AttentionSpec(4, 2, 64, 16, torch.float32)


@pytest.fixture
def step(any_operators, step_of):
    return step_of(any_operators, SPEC, [(5, 20), (1, 33)])


def test_attention_goes_to_the_back_end_that_owns_the_cache(any_operators, step, close):
    work = any_operators.plan(SPEC, step.batch)

    close(kernels.attend(step.q_TNH, step.cache, work), step.truth_TNH)
    with pytest.raises(ValueError, match="the cache belongs to"):
        kernels.attend(step.q_TNH, step.cache, work, backend="nobody")


def test_attention_names_the_argument_that_is_wrong(any_operators, step):
    work = any_operators.plan(SPEC, step.batch)
    small = any_operators.allocate_cache(SPEC, 1)
    other = any_operators.allocate_cache(AttentionSpec(4, 2, 64, 32, torch.float32), 50)

    with pytest.raises(ValueError, match=r"q_TNH is \[5, 4, 64\].*\[6, 4, 64\]"):
        kernels.attend(step.q_TNH[:5], step.cache, work)
    with pytest.raises(ValueError, match=r"q_TNH is .*torch.bfloat16"):
        kernels.attend(step.q_TNH.bfloat16(), step.cache, work)
    with pytest.raises(ValueError, match="q_TNH has strides"):
        kernels.attend(step.q_TNH.transpose(1, 2).contiguous().transpose(1, 2), step.cache, work)
    with pytest.raises(ValueError, match="out is"):
        kernels.attend(step.q_TNH, step.cache, work, out=torch.empty(6, 4, 32))
    with pytest.raises(ValueError, match=r"table_SC\[0, 0\] is \d+: the cache has pages 0 to 0"):
        kernels.attend(step.q_TNH, small, work)
    with pytest.raises(ValueError, match="work was planned for"):
        kernels.attend(step.q_TNH, other, work)
    with pytest.raises(ValueError, match="q_TNH is on meta: everything else is on cpu"):
        kernels.attend(step.q_TNH.to("meta"), step.cache, work)
    table_SC = step.batch.table_SC
    for page in (-1, step.cache.pages, 2**30):
        last, table_SC[0, 1] = int(table_SC[0, 1]), page
        with pytest.raises(ValueError, match=rf"table_SC\[0, 1\] is {page}: .* pages 0 to"):
            kernels.attend(step.q_TNH, step.cache, work)
        table_SC[0, 1] = last


def test_what_is_written_may_not_overlap_itself(cpu_operators, step_of):
    step = step_of(cpu_operators, SPEC, [(5, 20)])
    work, once = cpu_operators.plan(SPEC, step.batch), torch.zeros(1, 4, 64)
    x_TD, weight_D = torch.randn(5, 256), torch.ones(256)

    with pytest.raises(ValueError, match=r"out has strides .* its rows overlap; clone it"):
        kernels.attend(step.q_TNH, step.cache, work, out=once.expand(5, 4, 64))
    with pytest.raises(ValueError, match=r"out has strides \(100, 64, 1\)"):
        out = torch.zeros(5 * 256).as_strided((5, 4, 64), (100, 64, 1))
        kernels.attend(step.q_TNH, step.cache, work, out=out)
    with pytest.raises(ValueError, match=r"residual has strides"):
        kernels.rms_norm(x_TD, weight_D, 1e-5, residual=once.view(1, 256).expand(5, 256))
    with pytest.raises(ValueError, match=r"q_TNH has strides"):
        table_PR, positions_T = rope_table(64, 1e4, 9), np.arange(5, dtype=np.int32)
        kernels.rope_(once.expand(5, 4, 64), step.q_TNH, positions_T, table_PR, "neox")


def test_what_is_no_tensor_is_refused(cpu_operators, step_of):
    step = step_of(cpu_operators, SPEC, [(5, 20)])

    with pytest.raises(ValueError, match="q_TNH is a ndarray: a tensor is needed"):
        kernels.attend(step.q_TNH.numpy(), step.cache, cpu_operators.plan(SPEC, step.batch))


def test_work_planned_by_another_back_end_is_refused(cpu_operators, step_of):
    step = step_of(cpu_operators, SPEC, [(5, 20)])
    work = kernels.select("torch").plan(SPEC, step.batch)

    with pytest.raises(ValueError, match=r"work is a WorkList: .*'cpu', needs the NativeWork"):
        kernels.attend(step.q_TNH, step.cache, work)


def test_pages_that_are_never_read_may_be_anything(any_operators, step_of, close):
    step = step_of(any_operators, SPEC, [(1, 3), (1, 33)])
    step.batch.table_SC[0, 1:] = 2**30

    out_TNH = kernels.attend(step.q_TNH, step.cache, any_operators.plan(SPEC, step.batch))

    close(out_TNH, step.truth_TNH)


def test_writing_names_the_argument_that_is_wrong(any_operators):
    cache = any_operators.allocate_cache(SPEC, 2)
    k_TMH = torch.zeros(3, 2, 64)

    kernels.kv_write(cache, k_TMH, k_TMH, np.array([0, 5, 31]))
    with pytest.raises(ValueError, match="slots_T spans 0 to 32: the cache has slots 0 to 31"):
        kernels.kv_write(cache, k_TMH, k_TMH, np.array([0, 5, 32]))
    with pytest.raises(ValueError, match="slots_T spans -1 to 5"):
        kernels.kv_write(cache, k_TMH, k_TMH, np.array([0, 5, -1]))
    with pytest.raises(ValueError, match="slots_T names a slot twice"):
        kernels.kv_write(cache, k_TMH, k_TMH, np.array([0, 5, 5]))
    with pytest.raises(ValueError, match="slots_T is float64"):
        kernels.kv_write(cache, k_TMH, k_TMH, np.array([0.0, 5.0, 6.0]))
    with pytest.raises(ValueError, match=r"v_TMH is \[3, 2, 32\]"):
        kernels.kv_write(cache, k_TMH, k_TMH[..., :32], np.array([0, 5, 31]))


def test_norm_names_the_argument_that_is_wrong():
    x_TD, weight_D = torch.randn(3, 8), torch.ones(8)

    y_TD, _ = kernels.rms_norm(x_TD, weight_D, 1e-5)

    assert y_TD.shape == (3, 8)
    with pytest.raises(ValueError, match=r"weight_D is \[7\]"):
        kernels.rms_norm(x_TD, weight_D[:7], 1e-5)
    with pytest.raises(ValueError, match=r"residual is .*torch.bfloat16"):
        kernels.rms_norm(x_TD, weight_D, 1e-5, residual=x_TD.bfloat16())
    with pytest.raises(ValueError, match="eps is -1"):
        kernels.rms_norm(x_TD, weight_D, -1.0)
    with pytest.raises(ValueError, match=r"x is \[8\]"):
        kernels.rms_norm(x_TD.view(-1)[:8], weight_D, 1e-5)
    with pytest.raises(ValueError, match=r"with a residual it must be \[T, D\]"):
        kernels.rms_norm(x_TD[None], weight_D, 1e-5, residual=x_TD[None])


def test_rotation_names_the_argument_that_is_wrong():
    q_TNH, k_TMH, table_PR = torch.randn(3, 4, 64), torch.randn(3, 2, 64), rope_table(64, 1e4, 9)
    positions_T = np.array([0, 4, 8], np.int32)

    kernels.rope_(q_TNH, k_TMH, positions_T, table_PR, "neox")
    with pytest.raises(
        ValueError, match="positions_T spans 1 to 9: the table has positions 0 to 8"
    ):
        kernels.rope_(q_TNH, k_TMH, positions_T + 1, table_PR, "neox")
    with pytest.raises(ValueError, match=r"positions_T is float64 \(3,\)"):
        kernels.rope_(q_TNH, k_TMH, positions_T * 1.0, table_PR, "neox")
    with pytest.raises(ValueError, match="style is 'gptj'"):
        kernels.rope_(q_TNH, k_TMH, positions_T, table_PR, "gptj")
    with pytest.raises(ValueError, match="table_PR has R = 64"):
        kernels.rope_(
            q_TNH[..., :32].clone(), k_TMH[..., :32].clone(), positions_T, table_PR, "neox"
        )
    with pytest.raises(ValueError, match=r"k_TMH is \[2, 2, 64\]"):
        kernels.rope_(q_TNH, k_TMH[:2], positions_T, table_PR, "neox")
    with pytest.raises(ValueError, match="contiguous float32"):
        kernels.rope_(q_TNH, k_TMH, positions_T, table_PR.double(), "neox")


def test_silu_mul_and_linear_name_the_argument_that_is_wrong():
    x_TI = torch.randn(3, 8)

    assert kernels.silu_mul(x_TI).shape == (3, 4)
    assert kernels.linear(x_TI, torch.randn(5, 8)).shape == (3, 5)
    with pytest.raises(ValueError, match="gate_up_T2F is"):
        kernels.silu_mul(x_TI[:, :7])
    with pytest.raises(ValueError, match="out is"):
        kernels.silu_mul(x_TI, out=torch.empty(3, 8))
    with pytest.raises(ValueError, match=r"weight_OI is \[5, 7\]"):
        kernels.linear(x_TI, torch.randn(5, 7))
    with pytest.raises(ValueError, match=r"bias_O is \[4\]"):
        kernels.linear(x_TI, torch.randn(5, 8), torch.randn(4))
