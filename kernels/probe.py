"""What a back end made of someone else's calls can do on this machine, found by trying it.

Each case is a tiny step whose answer plain torch gives too, on the same device.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from .batch import AttentionSpec, RaggedBatch
from .fallback import TorchOperators
from .operators import Operators

# (query, context) tokens: a prompt, a decode, nothing, a chunk; decodes alone take other paths.
CASES = (((3, 3), (1, 200), (0, 40), (5, 140)), ((1, 200), (1, 77)))
# bfloat16 answers of order 1, from probabilities that were rounded too; a window or a sink that was
# ignored shows as 0.1 and more.
RELATIVE, ABSOLUTE = 2.0**-6, 2e-2


def refusals(
    operators: Operators, specs: Mapping[str, AttentionSpec], device: torch.device
) -> dict[str, str]:
    """Of the features that those specs stand for, which can't be trusted here, and why."""
    found = {name: _complaint(operators, spec, device) for name, spec in specs.items()}
    return {name: why for name, why in found.items() if why is not None}


def difference(actual: torch.Tensor, expected: torch.Tensor) -> str | None:
    """How far they are apart, or None where rounding explains it."""
    actual, expected = actual.float(), expected.float()
    if torch.allclose(actual, expected, rtol=RELATIVE, atol=ABSOLUTE):
        return None
    return f"differs from plain torch by up to {(actual - expected).abs().max().item():.3g}"


def failure(error: Exception) -> str:
    """The reason in one line."""
    first = str(error).strip().partition("\n")[0]
    return f"fails with {type(error).__name__}: {first}"


def _complaint(operators: Operators, spec: AttentionSpec, device: torch.device) -> str | None:
    for lens in CASES:
        try:
            complaint = difference(*_answers(operators, spec, lens, device))
        except Exception as error:  # a library may raise anything; the reason is handed on
            complaint = failure(error)
        if complaint is not None:
            return complaint
    return None


def _answers(
    operators: Operators,
    spec: AttentionSpec,
    lens: tuple[tuple[int, int], ...],
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What those operators answer and what plain torch does."""
    generator = torch.Generator().manual_seed(0)
    query_S, context_S = np.array(lens, np.int32).T
    columns = -(-int(context_S.max()) // spec.page_tokens)
    table_SC = np.arange(len(lens) * columns, dtype=np.int32)[::-1].reshape(len(lens), columns)
    history = RaggedBatch(
        np.cumsum([0, *context_S]), context_S, table_SC, spec.page_tokens
    )  # as if every token were new, for the slots
    batch = RaggedBatch(np.cumsum([0, *query_S]), context_S, table_SC, spec.page_tokens)

    def random(tokens: int, heads: int) -> torch.Tensor:
        x = torch.randn(tokens, heads, spec.head_size, generator=generator)
        return x.to(spec.dtype).to(device)

    k_TMH, v_TMH = (random(history.tokens, spec.kv_heads) for _ in range(2))
    q_TNH = random(batch.tokens, spec.query_heads)
    sinks_N = torch.ones(spec.query_heads, device=device) if spec.sinks else None
    answers = []
    for each in (operators, TorchOperators(device)):
        cache = each.allocate_cache(spec, table_SC.size)
        each.kv_write(cache, k_TMH, v_TMH, history.slots_T)
        answers.append(each.attend(q_TNH, cache, each.plan(spec, batch), sinks_N=sinks_N))
    return answers[0], answers[1]
