"""The prior: bytes and operations by hand, communication, and devices by name."""

from dataclasses import replace

import pytest

from hfx.cost import DEVICES, Mix, Sizes, device, roofline
from hfx.cost.roofline import all_reduce_s

LLAMA = {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
SIZES = Sizes.of(LLAMA)


def test_sizes_of_an_8b_model() -> None:
    assert SIZES.kv_bytes_per_token == 131072
    assert SIZES.weight_bytes == pytest.approx(2 * 8.03e9, rel=0.01)
    with pytest.raises(ValueError, match="no 'vocab_size'"):
        Sizes.of({name: value for name, value in LLAMA.items() if name != "vocab_size"})


def test_a_lone_decode_reads_the_weights_once_and_a_long_prompt_multiplies_them() -> None:
    perfect = replace(
        device("h100-sxm"), flops_share=1, bytes_share=1, launch_s=0, step_s=0, link_latency_s=0
    )
    model = roofline(SIZES, perfect, model="llama")
    layers_and_head = SIZES.weight_bytes - 2 * 4096 * 128256

    lone_s = model.step_s(Mix.one(1, 1)).mean_s
    prompt_s = model.step_s(Mix.one(8192, 0)).mean_s

    assert lone_s == pytest.approx(layers_and_head / 3.35e12, rel=0.01)
    products_s = 2 * 8192 * (layers_and_head / 2 - 4096 * 128256) / 989.4e12
    pairs_s = 4 * 32 * 32 * 128 * 8192**2 / 2 / (0.6 * 989.4e12)
    assert prompt_s == pytest.approx(products_s + pairs_s, rel=0.02)


def test_every_estimate_says_that_nothing_was_measured() -> None:
    estimate = roofline(SIZES, device("910b2"), model="llama").step_s(Mix.one(1, 9))

    assert estimate.extrapolated
    assert estimate.upper_s > 1.4 * estimate.mean_s


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_every_device_makes_a_model_whose_inverse_holds(name: str) -> None:
    model = roofline(SIZES, device(name), model="llama")
    mix = Mix.of([(1, 700)] * 16)
    slack_s = 2 * model.step_s(mix).upper_s

    n = model.prefill_tokens_within(slack_s, mix, 300)

    assert n > 0
    assert model.step_s(mix + Mix.one(n, 300)).upper_s <= slack_s
    assert model.step_s(mix + Mix.one(n + 1, 300)).upper_s > slack_s


def test_more_devices_are_faster_but_pay_for_their_talk() -> None:
    mix = Mix.of([(1, 2000)] * 64)
    alone, four = (
        roofline(SIZES, device("h100-sxm"), model="llama", tensor_parallel=n) for n in (1, 4)
    )
    silent = replace(device("h100-sxm"), link_bytes_per_s=1e18, link_latency_s=0)

    assert alone.step_s(mix).mean_s / 4 < four.step_s(mix).mean_s < alone.step_s(mix).mean_s
    free = roofline(SIZES, silent, model="llama", tensor_parallel=4)
    talk_s = four.step_s(mix).mean_s - free.step_s(mix).mean_s
    reduced_s = all_reduce_s(64 * 4096 * 2, 4, device("h100-sxm"))
    assert talk_s == pytest.approx(64 * reduced_s, rel=0.01)


def test_uneven_ranks_are_as_fast_as_the_one_with_most_heads() -> None:
    silent = replace(device("h100-sxm"), link_bytes_per_s=1e18, link_latency_s=0)
    models = (roofline(SIZES, silent, model="llama", tensor_parallel=n) for n in (3, 4, 16))

    three, four, sixteen = (model.mixed.pieces[0].per_decode_context_token_s for model in models)

    assert three == pytest.approx(four * 4 / 3 * 9 / 8)  # of 8 key-value heads it has 3, not 2 2/3
    assert sixteen == pytest.approx(four / 2)  # one head each, held twice


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'h1000' is not known: .*h100-sxm"):
        device("h1000")
    with pytest.raises(ValueError, match="tensor_parallel is 33: it must be from 1 to 32"):
        roofline(SIZES, device("h100-sxm"), model="llama", tensor_parallel=33)
    with pytest.raises(ValueError, match="cpu-2-cores has no links"):
        roofline(SIZES, device("cpu-2-cores"), model="llama", tensor_parallel=2)
    with pytest.raises(ValueError, match="layers is 0"):
        replace(SIZES, layers=0)
