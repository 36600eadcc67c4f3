"""The presets from the public tables: which data, what is assumed, what remains unmeasured.

Kernels explain about 93 % of a vLLM step (LLMServingSim's run against its own kernels), so presets
composed of kernels carry `ENGINE_SHARE` on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hfx.request import Mix

from ..devices import device
from ..fitting import fit, scaled
from ..gemm import GemmCost
from ..link import Link, Startup
from ..loaders import aiconfigurator, llmservingsim, splitwise, vidur
from ..loaders.compose import Attention, Curve, Step, steps, together
from ..roofline import Sizes, roofline
from ..step import Key, StepCost

ENGINE_SHARE = 1.06
MOST_STEP_TOKENS = 8192  # rows of a step worth fitting: serving engines chunk prompts below that
LLAMA_8B = Sizes(
    layers=32,
    width=4096,
    ffn_width=14336,
    query_heads=32,
    kv_heads=8,
    head_size=128,
    vocabulary=128256,
)
QWEN3_8B = replace(LLAMA_8B, layers=36, ffn_width=12288, vocabulary=151936)
SERVED_910B_ITL_S = 0.0558  # median, 4096 in, 200 out
SERVED_910B_TOKENS_PER_S = 7677


def rtxpro6000(data: Path) -> StepCost:
    """Llama-3.1-8B on one RTX PRO 6000, from measured mixed attention and dense operations."""
    stem = "lss_RTXPRO6000_Llama-3.1-8B_tp1"
    found = llmservingsim.load(
        data / f"{stem}_attention.csv.gz",
        data / f"{stem}_dense.csv.gz",
        data / f"{stem}_perseq.csv.gz",
        layers=LLAMA_8B.layers,
    )
    return fit(
        with_engine(within_memory(found, 600_000)),
        key=Key(device="rtxpro6000", model="llama-3.1-8b", dtype="bfloat16", version="vllm-0.19"),
        kv_bytes_per_token=LLAMA_8B.kv_bytes_per_token,
        links={"device": Link(50e9, 20e-6)},  # PCIe 5.0 x16: it has no NVLink
        startup=Startup({}, LLAMA_8B.weight_bytes),
        source=_source("LLMServingSim profiler tables (casys-kaist/LLMServingSim @5daddb21, MIT)"),
    )


def a100_steps(data: Path) -> tuple[list[Step], str]:
    """Steps of Llama-3-8B on one A100 from parts measured apart, and where the parts are from."""
    gemm = GemmCost.fit(aiconfigurator.gemms(data / "aic_a100_sxm_gemm.csv.gz"))
    dense = vidur.dense(data / "vidur_a100_Meta-Llama-3-8B_dense.csv.gz", layers=LLAMA_8B.layers)
    chunks = vidur.attention(
        data / "vidur_a100_llama2-70b_tp2_attention.csv.gz", query_heads=32, kv_heads=4
    )
    attention = aiconfigurator.attention(
        data / "aic_a100_sxm_attention.csv.gz", query_heads=32, kv_heads=8
    )
    decodes, prompts = _parted(attention)
    chunks = [part for part in chunks if part.pairs[0][0] > 1 and part.pairs[0][1]]
    source = (
        "dense operations and cached chunks (their key-value heads: 4 of 8) from vidur "
        "(microsoft/vidur @7d475133, MIT), attention and head from AIConfigurator "
        "(ai-dynamo/aiconfigurator @095f58a5, Apache-2.0)"
    )
    return _composed(dense, gemm, decodes, [*prompts, *chunks]), source


def a100(data: Path) -> StepCost:
    """Llama-3-8B on one A100."""
    return _fitted("a100-sxm-80gb", "llama-3-8b", *a100_steps(data))


def h100(data: Path) -> StepCost:
    """Llama-3.1-8B on one H100, every product priced by a fit of measured products."""
    gemm = GemmCost.fit(aiconfigurator.gemms(data / "aic_h100_sxm_gemm.csv.gz"))
    rows = np.array([1, 2, 4, 8, 16, 32, 64, *range(96, MOST_STEP_TOKENS + 1, 32)], dtype=float)
    per_layer = sum(gemm.seconds(rows, n, k) for k, n in LLAMA_8B.layer_matrices)
    limits = device("h100-sxm")
    moved = rows * (12 * LLAMA_8B.width + 6 * LLAMA_8B.ffn_width)  # norms, rope, activation
    pointwise = 4 * limits.launch_s + moved / (limits.bytes_per_s * limits.bytes_share)
    seconds = LLAMA_8B.layers * (per_layer + pointwise)
    attention = aiconfigurator.attention(
        data / "aic_h100_sxm_attention.csv.gz", query_heads=32, kv_heads=8
    )
    dense = Curve(tuple(rows.tolist()), tuple(seconds.tolist()))
    source = (
        "products and attention from AIConfigurator (ai-dynamo/aiconfigurator @095f58a5, "
        "Apache-2.0), pointwise operations by bytes; no chunk behind cached tokens was measured"
    )
    found = _composed(dense, gemm, *_parted(attention))
    return _fitted("h100-sxm", "llama-3.1-8b", found, source)


def a100_llama2_70b_tp8(data: Path) -> StepCost:
    """Llama-2-70B on eight A100: served prompts and decodes, mixed steps by the roofline."""
    sizes = Sizes(
        layers=80,
        width=8192,
        ffn_width=28672,
        query_heads=64,
        kv_heads=8,
        head_size=128,
        vocabulary=32000,
    )
    found = splitwise.load(data / "splitwise_a100.csv.gz", model="llama2-70b", tensor_parallel=8)
    key = Key(device="a100-sxm-80gb", model="llama-2-70b", dtype="float16", tensor_parallel=8)
    prior = roofline(sizes, device(key.device), model=key.model, tensor_parallel=8)
    source = "whole steps from Splitwise (Mutinifni/splitwise-sim @8f99e7dc, MIT)"
    model = fit(found, key=key, prior=prior, source=f"{source}; prompts and decodes were apart")
    return model


def like_910b(data: Path) -> StepCost:
    """Qwen3-8B on something like a 910B: a roofline brought to one served figure. Not measured.

    The served run is one number: 4096 tokens in, 200 out, 7,677 tokens a second in total, median
    gap 55.8 ms. Little's law gives its concurrency and so its decode batch; prices are scaled so
    that the batch's step, with the chunk that its throughput implies, takes that gap.
    """
    del data  # there are no public tables
    prior = roofline(QWEN3_8B, device("910b2"), model="qwen3-8b")
    requests_per_s = SERVED_910B_TOKENS_PER_S / (4096 + 200)
    decodes = round(requests_per_s * 200 * SERVED_910B_ITL_S)
    chunk = round(requests_per_s * 4096 * SERVED_910B_ITL_S)
    mix = Mix.of([(1, 4196)] * decodes + [(chunk, 2048)])
    factor = SERVED_910B_ITL_S / prior.step_s(mix).mean_s
    return replace(
        prior,
        key=replace(prior.key, device="910b-like"),
        decode=scaled(prior.decode, factor),
        mixed=scaled(prior.mixed, factor),
        source=(
            "910B-like, nothing measured: roofline of a 910B2 times "
            f"{factor:.2f} to meet one served figure (GPUStack, Qwen3-8B, vLLM-Ascend 0.9.1)"
        ),
    )


def _parted(attention: list[Attention]) -> tuple[list[Attention], list[Attention]]:
    """Decodes and whole prompts."""
    decodes = [part for part in attention if part.pairs[0][1]]
    return decodes, [part for part in attention if not part.pairs[0][1]]


def _composed(
    dense: Curve, gemm: GemmCost, decodes: list[Attention], chunks: list[Attention]
) -> list[Step]:
    """Steps of parts measured apart; mixed attention is taken as one launch after the other."""
    rows = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048], dtype=float)
    head_s = gemm.seconds(rows, LLAMA_8B.vocabulary, LLAMA_8B.width)
    head = Curve(tuple(rows.tolist()), tuple(head_s.tolist()))
    chunks = [part for part in chunks if sum(q for q, _ in part.pairs) <= MOST_STEP_TOKENS]
    decodes = [part for part in decodes if len(part.pairs) <= 512]
    parts = [*decodes, *chunks, *together(decodes, chunks, 3000)]
    return within_memory(steps(parts, LLAMA_8B.layers, dense, head), 450_000)


def _fitted(device_name: str, model: str, found: list[Step], source: str) -> StepCost:
    limits = device(device_name)
    return fit(
        with_engine(found),
        key=Key(device=device_name, model=model, dtype="bfloat16", version="kernels"),
        kv_bytes_per_token=LLAMA_8B.kv_bytes_per_token,
        links={"device": Link(limits.link_bytes_per_s * limits.bytes_share, limits.link_latency_s)},
        startup=Startup({}, LLAMA_8B.weight_bytes),
        source=_source(f"{source}; mixed steps composed, not measured"),
    )


def within_memory(found: list[Step], tokens: int) -> list[Step]:
    """Steps whose keys and values the device could hold, of at most the rows worth fitting."""
    return [
        (mix, seconds)
        for mix, seconds in found
        if mix.decode_context_tokens + mix.prefill_context_tokens + mix.prefill_tokens <= tokens
        and mix.tokens <= MOST_STEP_TOKENS
    ]


def with_engine(found: list[Step]) -> list[Step]:
    """Kernels' times with the engine's share on top."""
    return [(mix, seconds * ENGINE_SHARE) for mix, seconds in found]


def _source(kernels: str) -> str:
    share = round((ENGINE_SHARE - 1) * 100)
    return f"{kernels}; {share} % engine overhead added"


MAKERS: dict[str, Callable[[Path], StepCost]] = {
    "rtxpro6000-llama3.1-8b": rtxpro6000,
    "a100-llama3-8b": a100,
    "h100-llama3.1-8b": h100,
    "a100x8-llama2-70b": a100_llama2_70b_tp8,
    "910b-like-qwen3-8b": like_910b,
}
