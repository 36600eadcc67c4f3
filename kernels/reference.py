"""Plain truths of every operator in float64: slow, obvious, and what the others are tested against.

Every function takes any floating type, computes in float64 and returns float64; the class wraps
them as the back end "reference".
"""

from __future__ import annotations

import torch

from .batch import AttentionSpec, Int32Array, Int64Array, KVCache
from .operators import Operators, RopeStyle
from .plan import WorkList


def attend(
    q_TNH: torch.Tensor,
    k_CMH: torch.Tensor,
    v_CMH: torch.Tensor,
    spec: AttentionSpec,
    sinks_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention of one sequence whose T queries are the last of its C cached tokens."""
    queries, context = len(q_TNH), len(k_CMH)
    k_CNH = k_CMH.double().repeat_interleave(spec.group, dim=1)
    v_CNH = v_CMH.double().repeat_interleave(spec.group, dim=1)
    score_NTC = torch.einsum("tnh,cnh->ntc", q_TNH.double(), k_CNH) * spec.score_scale
    if spec.softcap:
        score_NTC = spec.softcap * torch.tanh(score_NTC / spec.softcap)
    position_T1 = torch.arange(context - queries, context)[:, None]
    key_C = torch.arange(context)
    seen_TC = key_C <= position_T1
    if spec.window:
        seen_TC &= key_C > position_T1 - spec.window
    score_NTC = score_NTC.masked_fill(~seen_TC, -torch.inf)
    if sinks_N is not None:
        sink_NT1 = sinks_N.double()[:, None, None].expand(-1, queries, 1)
        score_NTC = torch.cat((score_NTC, sink_NT1), dim=-1)
    probability_NTC = score_NTC.softmax(dim=-1)[..., :context]
    return torch.einsum("ntc,cnh->tnh", probability_NTC, v_CNH)


def kv_write(cache_PSMH: torch.Tensor, kv_TMH: torch.Tensor, slots_T: Int64Array) -> None:
    """Put each token's row into its slot of a cache [pages, page_tokens, M, H], in place."""
    flat = cache_PSMH.view(-1, *cache_PSMH.shape[2:])
    for token, slot in enumerate(slots_T.tolist()):
        flat[slot] = kv_TMH[token]


def rms_norm(x: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    x = x.double()
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight_D.double()


def rope(
    x_TNH: torch.Tensor, positions_T: Int32Array, table_PR: torch.Tensor, style: RopeStyle
) -> torch.Tensor:
    """The first R dimensions of every head rotated by the table's angles."""
    half = table_PR.shape[1] // 2
    row_TR = table_PR.double()[torch.as_tensor(positions_T, dtype=torch.int64)]
    cos, sin = row_TR[:, None, :half], row_TR[:, None, half:]
    y_TNH = x_TNH.double().clone()
    if style == "neox":
        first, second = slice(0, half), slice(half, 2 * half)
    else:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    a, b = x_TNH.double()[..., first], x_TNH.double()[..., second]
    y_TNH[..., first] = a * cos - b * sin
    y_TNH[..., second] = b * cos + a * sin
    return y_TNH


def silu_mul(gate_up_T2F: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of rows that hold gate and up side by side."""
    gate, up = gate_up_T2F.double().chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def linear(
    x_TI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None
) -> torch.Tensor:
    """x W^T + bias."""
    y_TO = x_TI.double() @ weight_OI.double().T
    return y_TO if bias_O is None else y_TO + bias_O.double()


class ReferenceOperators(Operators):
    """The truths as a back end, results rounded once to the input type.

    Caches are float64 whatever the spec stores.
    """

    name = "reference"

    def allocate_cache(self, spec: AttentionSpec, pages: int) -> KVCache:
        shape = (pages, spec.page_tokens, spec.kv_heads, spec.head_size)
        k = torch.empty(shape, dtype=torch.float64)
        return KVCache(self.name, spec, k, torch.empty_like(k))

    def kv_write(
        self, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: Int64Array
    ) -> None:
        kv_write(cache.k, k_TMH, slots_T)
        kv_write(cache.v, v_TMH, slots_T)

    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        work: WorkList,
        out: torch.Tensor | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        out = torch.empty(q_TNH.shape, dtype=q_TNH.dtype) if out is None else out
        batch = work.batch
        starts = batch.query_starts.tolist()
        for sequence, context in enumerate(batch.context_lens_S.tolist()):
            rows = slice(starts[sequence], starts[sequence + 1])
            pages = torch.as_tensor(batch.table_SC[sequence, : -(-context // batch.page_tokens)])
            k_CMH = cache.k[pages].flatten(0, 1)[:context]
            v_CMH = cache.v[pages].flatten(0, 1)[:context]
            out[rows] = attend(q_TNH[rows], k_CMH, v_CMH, work.spec, sinks_N)
        return out

    def rms_norm(
        self,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        residual = x if residual is None else residual.add_(x)
        y = rms_norm(residual, weight_D, eps).to(x.dtype)
        return (y if out is None else out.copy_(y)), residual

    def rope_(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
    ) -> None:
        q_TNH.copy_(rope(q_TNH, positions_T, table_PR, style))
        k_TMH.copy_(rope(k_TMH, positions_T, table_PR, style))

    def silu_mul(self, gate_up_T2F: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        y = silu_mul(gate_up_T2F).to(gate_up_T2F.dtype)
        return y if out is None else out.copy_(y)
