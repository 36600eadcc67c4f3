"""How plain torch writes and reads a cache [pages, page_tokens, M, H], with scales or without.

A scale is one per token and head, [pages, page_tokens, M], or one for the whole cache, [1].
"""

from __future__ import annotations

import torch


def write(
    cache: torch.Tensor, scale: torch.Tensor | None, x_TMH: torch.Tensor, slots: torch.Tensor
) -> None:
    """Put each token's row into its slot; a scale per token and head goes beside it."""
    rows = cache.flatten(0, 1)
    if scale is None:
        rows.index_copy_(0, slots, x_TMH)
        return
    limit = largest(cache.dtype)
    if scale.ndim == 1:
        scale_TM = scale
    else:
        peak_TM = x_TMH.float().abs().amax(dim=-1)
        scale_TM = torch.where(peak_TM > 0, peak_TM / limit, 1.0)
        scale.flatten(0, 1).index_copy_(0, slots, scale_TM)
    stored_TMH = (x_TMH.float() / scale_TM.unsqueeze(-1)).clamp(-limit, limit)
    if not cache.dtype.is_floating_point:
        stored_TMH = stored_TMH.round()
    # as bytes: torch copies rows of float8 on some devices only
    rows.view(torch.uint8).index_copy_(0, slots, stored_TMH.to(cache.dtype).view(torch.uint8))


def read(cache: torch.Tensor, scale: torch.Tensor | None, pages: torch.Tensor) -> torch.Tensor:
    """Those pages' rows end to end, [C, M, H]; float32 where there are scales."""
    if scale is None:
        return cache.index_select(0, pages).flatten(0, 1)
    stored = cache.view(torch.uint8).index_select(0, pages).view(cache.dtype).float()
    if scale.ndim > 1:
        scale = scale.index_select(0, pages).unsqueeze(-1)
    return (stored * scale).flatten(0, 1)


def largest(dtype: torch.dtype) -> float:
    """The largest number that a quantised cache stores, and minus the least."""
    return torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max
