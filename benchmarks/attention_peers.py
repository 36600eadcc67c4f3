"""Other ways to compute a step's attention, by name: torch's own, or a back end of ours.

torch's get keys and values that are gathered and contiguous already, which paged attention does
within its time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from hfx.kernels import select

from .attention_cases import Inputs

Call = Callable[[], object]
TORCH = ("sdpa", "flex")


def call_of(name: str, inputs: Inputs) -> Call | None:
    """A call that computes the step that way; None if it can't have the step's features.

    Raises:
        ValueError: nothing has that name.
        RuntimeError: it can't run on this machine; the message says why.
    """
    if name in TORCH:
        if inputs.spec.softcap or inputs.spec.sinks or inputs.spec.window:
            return None
        return _sdpa(inputs) if name == "sdpa" else _flex(inputs)
    spec = inputs.spec
    operators = select(name, device=inputs.q_TNH.device, dtype=spec.dtype, spec=spec)
    work, cache = operators.plan(spec, inputs.batch), inputs.cache(operators)
    return lambda: operators.attend(inputs.q_TNH, cache, work, sinks_N=inputs.sinks_N)


def _sdpa(inputs: Inputs) -> Call:
    """scaled_dot_product_attention, sequences of one shape in one call, heads grouped."""
    calls = []
    for q, k, v in _batched(inputs):
        new, context = q.shape[2], k.shape[2]
        mask = None
        if 1 < new < context:
            mask = torch.ones(new, context, dtype=torch.bool, device=q.device).tril(context - new)
        calls.append((q, k, v, mask, 1 < new == context))
    return lambda: [
        scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
        for q, k, v, mask, causal in calls
    ]


def _flex(inputs: Inputs) -> Call:
    """flex_attention, compiled for every shape of the step."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    calls = []
    for q, k, v in _batched(inputs):
        new, context = q.shape[2], k.shape[2]

        def causal(b, h, row, key, history=context - new):
            return key <= row + history

        mask = create_block_mask(causal, None, None, new, context, device=str(q.device))
        calls.append((q, k, v, mask))
    return lambda: [compiled(q, k, v, block_mask=mask, enable_gqa=True) for q, k, v, mask in calls]


def _batched(inputs: Inputs) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """q [B, N, T, H], k and v [B, M, C, H] of the sequences of each shape, contiguous."""
    batch = inputs.batch
    ends = batch.context_lens_S.cumsum().tolist()
    shapes: dict[tuple[int, int], list[int]] = {}
    for s, shape in enumerate(zip(batch.query_lens_S, batch.context_lens_S, strict=True)):
        shapes.setdefault((int(shape[0]), int(shape[1])), []).append(s)
    return [
        (
            _stack(inputs.q_TNH, [int(batch.query_starts[s]) for s in sequences], new),
            _stack(inputs.k_CMH, [ends[s] - context for s in sequences], context),
            _stack(inputs.v_CMH, [ends[s] - context for s in sequences], context),
        )
        for (new, context), sequences in shapes.items()
    ]


def _stack(x: torch.Tensor, starts: list[int], count: int) -> torch.Tensor:
    return torch.stack([x[start : start + count].transpose(0, 1) for start in starts])
