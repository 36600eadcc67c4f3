"""Other ways to compute a step's attention, by name: torch's own, or a back end of ours.

torch's get keys and values that are gathered and contiguous already, which paged attention does
within its time.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import torch
from torch.nn.functional import scaled_dot_product_attention

from hfx.kernels import Operators, select

from .attention_cases import Inputs

Call = Callable[[], object]
LARGE_PAGE = 256  # the only ones that flash-attn 2 takes


def call_of(name: str, inputs: Inputs) -> Call | str:
    """A call that computes the step that way, or why there is none here.

    Raises:
        ValueError: nothing has that name.
    """
    if name == "sdpa":
        return _sdpa(inputs)
    if name == "flex":
        return _flex(inputs)
    reason = ""
    for paged in (inputs, inputs.on_pages_of(LARGE_PAGE)):
        spec = paged.spec
        try:
            operators = select(name, device=paged.q_TNH.device, dtype=spec.dtype, spec=spec)
        except RuntimeError as error:
            reason = reason or str(error)
            continue
        return _paged(operators, paged)
    return reason


def _paged(operators: Operators, inputs: Inputs) -> Call:
    """A back end's own call, on caches taken in turn, as ours are."""
    work, turn = operators.plan(inputs.spec, inputs.batch), cycle(inputs.caches(operators))
    return lambda: operators.attend(inputs.q_TNH, next(turn), work, sinks_N=inputs.sinks_N)


def _sdpa(inputs: Inputs) -> Call | str:
    """scaled_dot_product_attention, sequences of one shape in one call, heads grouped."""
    spec = inputs.spec
    if spec.softcap or spec.sinks or spec.window:
        return "has no soft-cap and no sinks, and computes what a window hides"
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


def _flex(inputs: Inputs) -> Call | str:
    """flex_attention, compiled for every shape of the step before it's timed."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    spec = inputs.spec
    if spec.sinks:
        return "has no sinks"
    window, softcap = spec.window, spec.softcap

    def capped(score, b, h, row, key):
        return softcap * torch.tanh(score / softcap)

    def mask_of(new: int, context: int, device: str):
        def visible(b, h, row, key):
            position = row + (context - new)
            seen = key <= position
            return seen & (key > position - window) if window else seen

        return create_block_mask(visible, None, None, new, context, device=device)

    compiled = torch.compile(flex_attention, dynamic=False)
    score_mod = capped if softcap else None
    calls = [
        (q, k, v, mask_of(q.shape[2], k.shape[2], str(q.device))) for q, k, v in _batched(inputs)
    ]

    def call() -> object:
        return [
            compiled(q, k, v, score_mod=score_mod, block_mask=mask, enable_gqa=True)
            for q, k, v, mask in calls
        ]

    try:
        call()
    except Exception as error:  # whatever its compiler meets on this machine
        return f"does not compile here: {type(error).__name__}: {str(error).splitlines()[0]}"
    return call


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
