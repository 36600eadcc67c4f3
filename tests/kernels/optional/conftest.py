"""Stand-ins for flash-attn and FlashInfer that record calls and answer them in float64 on the CPU.

Signatures are those of flash-attn 2.8.3, of flash-attn 3's `flash_attn_interface` and of
flashinfer-python 0.7.2, so that Python itself refuses a wrong name; what their sources check is
checked here. They say nothing about speed or about what a GPU computes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from hfx.kernels import AttentionSpec, reference


def rule(holds: bool, text: str) -> None:
    """Raise as the library would where that rule doesn't hold."""
    if not holds:
        raise RuntimeError(f"broken rule: {text}")


def paged(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    starts: list[int],
    contexts: list[int],
    pages: list[torch.Tensor],
    window_left: int,
    scale: float,
    softcap: float,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention aligned to the last key; `window_left` is keys before a query, -1 all."""
    page_tokens, kv_heads = k_cache.shape[1:3]
    spec = AttentionSpec(
        q.shape[1], kv_heads, q.shape[2], page_tokens, q.dtype, window_left + 1, scale, softcap
    )
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for start, end, context, own in zip(starts, starts[1:], contexts, pages, strict=False):
        used = own[: -(-context // page_tokens)].long()
        k, v = (x[used].flatten(0, 1)[:context] for x in (k_cache, v_cache))
        out[start:end] = reference.attend(q[start:end], k, v, spec, sinks)
    return out


def check_flash(
    q: torch.Tensor, cache: torch.Tensor, table: torch.Tensor, lists: list[torch.Tensor]
) -> None:
    """What both generations check of their tensors."""
    rule(q.dtype in (torch.float16, torch.bfloat16), "only fp16 and bf16")
    rule(q.stride(-1) == cache.stride(-1) == 1, "the last dimension is contiguous")
    rule(q.shape[2] <= 256 and q.shape[2] % 8 == 0, "head size at most 256, a multiple of 8")
    rule(all(x.dtype == torch.int32 and x.is_contiguous() for x in lists), "lengths are int32")
    rule(table.dtype == torch.int32 and table.stride(-1) == 1, "the page table is int32")


class FlashAttention2:
    """The module `flash_attn` as far as it's used."""

    __name__ = "flash_attn"

    def __init__(self, fault: str = "") -> None:
        self.calls: list[dict[str, Any]] = []
        self.fault = fault

    def flash_attn_varlen_func(
        self,
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
        return_attn_probs=False,
        block_table=None,
    ):
        self.calls.append({"window_size": window_size, "q": q, "max_seqlen_k": max_seqlen_k})
        check_flash(q, k, block_table, [cu_seqlens_q, cu_seqlens_k])
        rule(k.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256")
        starts, ends = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
        contexts = [b - a for a, b in pairwise(ends)]
        rule(len(starts) == len(ends) == len(block_table) + 1, "one row a sequence")
        rule(starts[-1] == len(q) and max(contexts) == max_seqlen_k, "lengths fit")
        rule(max(b - a for a, b in pairwise(starts)) == max_seqlen_q, "fit")
        rule(causal and window_size[1] in (-1, 0), "attention is causal here")
        left = -1 if self.fault == "window" else window_size[0]
        softmax_scale *= 1.3 if self.fault == "causal" else 1
        pages = list(block_table)
        return paged(q, k, v, starts, contexts, pages, left, softmax_scale, softcap)


class FlashAttention3:
    """The module `flash_attn_interface` as far as it's used."""

    __name__ = "flash_attn_interface"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def flash_attn_with_kvcache(
        self,
        q,
        k_cache,
        v_cache,
        k=None,
        v=None,
        qv=None,
        rotary_cos=None,
        rotary_sin=None,
        cache_seqlens=None,
        cache_batch_idx=None,
        cache_leftpad=None,
        page_table=None,
        cu_seqlens_q=None,
        cu_seqlens_k_new=None,
        max_seqlen_q=None,
        rotary_seqlens=None,
        q_descale=None,
        k_descale=None,
        v_descale=None,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        attention_chunk=0,
        softcap=0.0,
        rotary_interleaved=True,
        scheduler_metadata=None,
        num_splits=0,
        pack_gqa=None,
        sm_margin=0,
        return_softmax_lse=False,
    ):
        self.calls.append({"window_size": window_size, "q": q})
        check_flash(q, k_cache, page_table, [cu_seqlens_q, cache_seqlens])
        starts, contexts = cu_seqlens_q.tolist(), cache_seqlens.tolist()
        rule(len(starts) - 1 == len(contexts) == len(page_table), "one row a sequence")
        rule(starts[-1] == len(q) and causal, "lengths fit")
        rule(max(b - a for a, b in pairwise(starts)) == max_seqlen_q, "fit")
        return paged(
            q, k_cache, v_cache, starts, contexts, list(page_table), window_size[0], softmax_scale,
            softcap,
        )  # fmt: skip


class FlashInfer:
    """The module `flashinfer` as far as it's used."""

    __name__ = "flashinfer"

    def __init__(self, fault: str = "") -> None:
        self.wrappers: list[Any] = []
        library = self

        class BatchPrefillWithPagedKVCacheWrapper:
            def __init__(
                self,
                float_workspace_buffer,
                kv_layout="NHD",
                use_cuda_graph=False,
                qo_indptr_buf=None,
                paged_kv_indptr_buf=None,
                paged_kv_indices_buf=None,
                paged_kv_last_page_len_buf=None,
                custom_mask_buf=None,
                mask_indptr_buf=None,
                backend="auto",
                jit_args=None,
                jit_kwargs=None,
                variant_owns_mask=False,
            ):
                rule(float_workspace_buffer.dtype == torch.uint8, "the workspace is bytes")
                rule(kv_layout == "NHD", "the cache is [pages, tokens, heads, size]")
                self.plans: list[dict[str, Any]] = []
                library.wrappers.append(self)

            def plan(
                self,
                qo_indptr,
                paged_kv_indptr,
                paged_kv_indices,
                paged_kv_last_page_len,
                num_qo_heads,
                num_kv_heads,
                head_dim_qk,
                page_size,
                head_dim_vo=None,
                custom_mask=None,
                packed_custom_mask=None,
                causal=False,
                pos_encoding_mode="NONE",
                use_fp16_qk_reduction=False,
                sm_scale=None,
                window_left=-1,
                logits_soft_cap=None,
                rope_scale=None,
                rope_theta=None,
                q_data_type="float16",
                kv_data_type=None,
                o_data_type=None,
                non_blocking=True,
                prefix_len_ptr=None,
                token_pos_in_items_ptr=None,
                token_pos_in_items_len=0,
                max_item_len_ptr=None,
                seq_lens=None,
                seq_lens_q=None,
                block_tables=None,
                max_token_per_sequence=None,
                max_sequence_kv=None,
                fixed_split_size=None,
                disable_split_kv=False,
                uniform_q_len=None,
            ):
                lists = (qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len)
                rule(all(x.dtype == torch.int32 for x in lists), "lists are int32")
                rule(len(qo_indptr) == len(paged_kv_indptr), "one start a sequence")
                rule(len(paged_kv_indices) == int(paged_kv_indptr[-1]), "pages end to end")
                last = paged_kv_last_page_len
                rule(1 <= int(last.min()) <= int(last.max()) <= page_size, "last fill in 1..page")
                rule(causal and head_dim_qk in (64, 128, 256), "causal, and a head size it has")
                self.plans.append(
                    {
                        "starts": qo_indptr.tolist(),
                        "page_starts": paged_kv_indptr.tolist(),
                        "pages": paged_kv_indices,
                        "last": last.tolist(),
                        "page": page_size,
                        "heads": (num_qo_heads, num_kv_heads, head_dim_qk),
                        "window_left": -1 if fault == "window" else window_left,
                        "scale": sm_scale,
                        "softcap": logits_soft_cap,
                        "dtypes": (q_data_type, kv_data_type),
                    }
                )

            def run(self, q, paged_kv_cache, *args, out=None, lse=None, return_lse=False):
                rule(not args, "there are no further arguments without sinks")
                return self._answer(q, paged_kv_cache, None)

            def _answer(self, q, paged_kv_cache, sinks):
                now = self.plans[-1]
                k, v = paged_kv_cache
                rule(q.is_contiguous(), "q is contiguous")
                rule((q.dtype, k.dtype) == now["dtypes"], "types are those of the plan")
                rule((q.shape[1], k.shape[2], q.shape[2]) == now["heads"], "heads are the plan's")
                rule(k.shape[1] == now["page"] and len(q) == now["starts"][-1], "sizes are too")
                bounds = list(pairwise(now["page_starts"]))
                return paged(
                    q,
                    k,
                    v,
                    now["starts"],
                    [
                        (end - begin - 1) * now["page"] + last
                        for (begin, end), last in zip(bounds, now["last"], strict=True)
                    ],
                    [now["pages"][begin:end] for begin, end in bounds],
                    now["window_left"],
                    now["scale"],
                    now["softcap"],
                    sinks,
                )

        class BatchAttentionWithAttentionSinkWrapper(BatchPrefillWithPagedKVCacheWrapper):
            def __init__(
                self,
                float_workspace_buffer,
                kv_layout="NHD",
                use_cuda_graph=False,
                qo_indptr_buf=None,
                paged_kv_indptr_buf=None,
                paged_kv_indices_buf=None,
                paged_kv_last_page_len_buf=None,
                custom_mask_buf=None,
                mask_indptr_buf=None,
                backend="auto",
                pos_encoding_mode="NONE",
                use_fp16_qk_reduction=False,
                q_data_type=torch.bfloat16,
                kv_data_type=torch.bfloat16,
                head_dim_qk=128,
                head_dim_vo=128,
                window_left=-1,
            ):
                super().__init__(float_workspace_buffer, kv_layout)
                self.built_for = (q_data_type, kv_data_type), head_dim_qk, window_left >= 0
                rule(head_dim_qk == head_dim_vo == 128, "its kernels' names have no head size")

            def run(self, q, paged_kv_cache, *args, out=None, lse=None, return_lse=False):
                now = self.plans[-1]
                rule(len(args) == 2, "the kernels declare a tensor, sink, and a number, sm_scale")
                sinks, scale = args
                rule(sinks.dtype == torch.float32, "sinks are float32")
                rule(sinks.shape == (q.shape[1],), "there is one for every query head")
                rule(scale == now["scale"], "the scale comes with the call")
                built = now["dtypes"], now["heads"][2], now["window_left"] >= 0
                rule(built == self.built_for or fault == "window", "planned as it was built")
                rule(now["softcap"] == 0, "this variant leaves the soft-cap out")
                return self._answer(q, paged_kv_cache, None if fault == "sinks" else sinks)

        self.BatchAttentionWithAttentionSinkWrapper = BatchAttentionWithAttentionSinkWrapper
        self.BatchPrefillWithPagedKVCacheWrapper = BatchPrefillWithPagedKVCacheWrapper


@pytest.fixture
def flash_attention_2() -> Callable[..., FlashAttention2]:
    """Makes a stand-in for generation 2, which may have a fault."""
    return FlashAttention2


@pytest.fixture
def flash_attention_3() -> FlashAttention3:
    """A stand-in for generation 3."""
    return FlashAttention3()


@pytest.fixture
def flashinfer_library() -> Callable[..., FlashInfer]:
    """Makes a stand-in for FlashInfer, which may have a fault."""
    return FlashInfer
