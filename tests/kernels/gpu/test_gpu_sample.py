"""Tokens chosen on the device, interpreted: the cuts are the host's, the draws are by weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.engine.sampler import cut_weights
from hfx.kernels.gpu.sample import NO_TOKEN, Draws, sample
from hfx.request import Sampling


def draws(rows: int, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0, step=0) -> Draws:
    return Draws(
        torch.full((rows,), float(temperature)),
        torch.full((rows,), top_k, dtype=torch.int32),
        torch.full((rows,), float(top_p)),
        torch.full((rows,), float(min_p)),
        torch.arange(rows) + seed,
        torch.full((rows,), step, dtype=torch.int32),
    )


def test_without_temperature_the_first_of_the_best_tokens_wins():
    logits_RV = torch.randn(3, 77)
    logits_RV[1, [5, 9]] = 100.0

    tokens_R = sample(logits_RV, draws(3, temperature=0.0))

    assert tokens_R.tolist() == logits_RV.argmax(dim=1).tolist()
    assert tokens_R[1] == 5


def test_rows_without_usable_numbers_have_no_token():
    logits_RV = torch.randn(4, 50)
    logits_RV[0, 7] = torch.nan
    logits_RV[1] = -torch.inf
    logits_RV[2, 3] = torch.inf

    tokens_R = sample(logits_RV, draws(4))

    assert tokens_R[:3].tolist() == [NO_TOKEN] * 3
    assert tokens_R[3] >= 0


def test_draws_depend_on_seed_and_step_only():
    logits_V = torch.randn(300)
    alone = sample(logits_V[None], draws(1, seed=3))
    crowd = sample(logits_V.expand(6, 300), draws(6))
    wide = torch.full((6, 400), torch.nan)
    wide[:, :300] = logits_V
    strided = sample(wide[:, :300], draws(6))
    later = sample(logits_V.expand(6, 300), draws(6, step=1))

    assert crowd[3] == alone[0]
    assert torch.equal(crowd, strided)
    assert not torch.equal(crowd, later)


def test_tokens_are_drawn_in_proportion_to_their_weights():
    logits_V = torch.tensor([0.0, 1.0, 2.0, -30.0, 1.5])
    temperature, rows = 0.7, 200
    expected_V = torch.softmax(logits_V / temperature, dim=0).numpy() * rows

    tokens_R = sample(logits_V.expand(rows, 5), draws(rows, temperature=temperature))

    found_V = np.bincount(tokens_R.numpy(), minlength=5)
    likely = expected_V > 1
    distance = ((found_V - expected_V) ** 2 / np.maximum(expected_V, 1e-9))[likely].sum()
    assert distance < 18.5  # of chi-square with 3 degrees of freedom, once in 3,000 seeds
    assert found_V[~likely].sum() == 0


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 4]),
    top_p=st.sampled_from([0.2, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 1000),
)
def test_only_tokens_that_the_hosts_cuts_leave_are_drawn(
    interpreting, temperature, top_k, top_p, min_p, seed
):
    generator = torch.Generator().manual_seed(seed)
    logits_V = torch.randn(40, generator=generator).round(decimals=1)  # with equals
    cut = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    kept = cut_weights(logits_V.numpy(), int(logits_V.argmax()), cut) > 0

    tokens_R = sample(
        logits_V.expand(4, 40),
        draws(4, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed),
    )

    assert kept[tokens_R.numpy()].all()


@pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.6)])
def test_every_token_that_the_cuts_leave_can_be_drawn(top_k, top_p):
    logits_V = torch.tensor([1.0, 1.2, 0.9, -1.0, -1.5])
    cut = Sampling(temperature=1.0, top_k=top_k, top_p=top_p)
    kept = np.flatnonzero(cut_weights(logits_V.numpy(), 1, cut))

    tokens_R = sample(logits_V.expand(14, 5), draws(14, top_k=top_k, top_p=top_p))

    assert set(tokens_R.tolist()) == set(kept)
