"""Causal attention of one sequence over its pages, heads of a group as extra rows of one product.

Dimensions: Q queries, C cached tokens that are read, N query heads, M key-value heads, G query
heads a key-value head, R rows of a product (Q x G), H head size.
"""

from __future__ import annotations

import torch

from ..batch import AttentionSpec, KVCache
from .quantise import read

# Bounds the score matrix (Q x N x C) at long contexts; no effect on results.
QUERY_BLOCK_TOKENS = 128


def attend_sequence(
    q_QNH: torch.Tensor,
    cache: KVCache,
    pages_C: torch.Tensor,
    context: int,
    spec: AttentionSpec,
    out_QNH: torch.Tensor,
    sinks_N: torch.Tensor | None,
) -> None:
    """Write the attention of a sequence's last tokens, of which `context` are cached, to out."""
    history = context - len(q_QNH)
    for start in range(0, len(q_QNH), QUERY_BLOCK_TOKENS):
        block = q_QNH[start : start + QUERY_BLOCK_TOKENS]
        first = history + start
        end = first + len(block)
        begin = max(0, first - spec.window + 1) if spec.window else 0
        begin -= begin % spec.page_tokens
        k_CMH, v_CMH = (
            _gather(x, scale, pages_C, begin, end, spec)
            for x, scale in ((cache.k, cache.k_scale), (cache.v, cache.v_scale))
        )
        visible_QC = _visible(first, begin, end, spec.window, block.device)
        out_QNH[start : start + len(block)] = _attend(
            block, k_CMH, v_CMH, visible_QC, spec, sinks_N
        )


def _gather(
    cache: torch.Tensor,
    scale: torch.Tensor | None,
    pages_C: torch.Tensor,
    begin: int,
    end: int,
    spec: AttentionSpec,
) -> torch.Tensor:
    """Tokens begin to end of a sequence; unwritten slots behind them are cut off, not masked:
    they may hold NaN, and 0 * NaN is NaN."""
    pages = pages_C[begin // spec.page_tokens : -(-end // spec.page_tokens)]
    return read(cache, scale, pages)[: end - begin]


def _visible(first: int, begin: int, end: int, window: int, device: torch.device) -> torch.Tensor:
    position_Q1 = torch.arange(first, end, device=device)[:, None]
    key_C = torch.arange(begin, end, device=device)
    visible_QC = key_C <= position_Q1
    return visible_QC & (key_C > position_Q1 - window) if window else visible_QC


def _attend(
    q_QNH: torch.Tensor,
    k_CMH: torch.Tensor,
    v_CMH: torch.Tensor,
    visible_QC: torch.Tensor,
    spec: AttentionSpec,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    queries = len(q_QNH)
    wide = torch.float64 if q_QNH.dtype == torch.float64 else torch.float32
    q_MRH = (
        q_QNH.to(wide)
        .view(queries, spec.kv_heads, spec.group, spec.head_size)
        .transpose(0, 1)
        .reshape(spec.kv_heads, queries * spec.group, spec.head_size)
    )
    k_MHC = k_CMH.to(wide).permute(1, 2, 0)
    v_MCH = v_CMH.to(wide).transpose(0, 1)
    hidden_RC = ~visible_QC.repeat_interleave(spec.group, dim=0)
    score_MRC = torch.bmm(q_MRH * spec.score_scale, k_MHC)
    if spec.softcap:
        score_MRC = spec.softcap * torch.tanh(score_MRC / spec.softcap)
    score_MRC = score_MRC.masked_fill_(hidden_RC, -torch.inf)
    if sinks_N is not None:
        sink_MR1 = sinks_N.to(wide).view(spec.kv_heads, -1).repeat(1, queries).unsqueeze(-1)
        score_MRC = torch.cat((score_MRC, sink_MR1), dim=-1)
    probability_MRC = score_MRC.softmax(dim=-1)[..., : k_MHC.shape[-1]]
    out_MRH = torch.bmm(probability_MRC, v_MCH)
    out_MQGH = out_MRH.view(spec.kv_heads, queries, spec.group, spec.head_size)
    return out_MQGH.transpose(0, 1).reshape(q_QNH.shape).to(q_QNH.dtype)
