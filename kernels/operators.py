"""What every back end offers: one set of operators, unchecked, for callers that already know.

The checked twins are in `functional`. Dimensions: T tokens, D width, F features, N query heads, M
key-value heads, H head size, P positions, R rotary dimensions. Rows of q, k, v and x may be strided
(views into a fused projection); within a row, heads are contiguous.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch

from .batch import AttentionSpec, Int32Array, Int64Array, KVCache, RaggedBatch
from .draws import Draws
from .plan import WorkList

RopeStyle = Literal["neox", "llama"]


@dataclass(frozen=True, slots=True, eq=False)
class LinearWeights:
    """A linear layer as a back end keeps it; only that back end's `linear` can read it.

    A `gated` layer is a feed-forward's gate and up projections in one weight, gates first: its
    result is silu(gate) * up, half as wide as its outputs.
    """

    outputs: int
    inputs: int
    gated: bool

    @property
    def width(self) -> int:
        """Numbers per row of the result."""
        return self.outputs // 2 if self.gated else self.outputs


@dataclass(frozen=True, slots=True, eq=False)
class PlainLinear(LinearWeights):
    """Weights as they came: weight [O, I], bias [O] or None."""

    weight_OI: torch.Tensor
    bias_O: torch.Tensor | None


class Room:
    """Lists at fixed addresses on the device, for steps that are captured once and replayed."""

    __slots__ = ()


class Operators(ABC):
    """The operators of one back end; get one from `hfx.kernels.select`."""

    name: str
    threads: int | None = None  # that a large call uses; None: as many as torch does
    work_type: type[WorkList] = WorkList  # what its `plan` gives and its `attend` takes
    compiles = False  # whether a call of a kind that was not made before may compile something
    samples = False  # whether it has `sample`

    @property
    def detail(self) -> str:
        """What of the machine it uses, for people."""
        return ""

    def objection(self, spec: AttentionSpec) -> str | None:
        """Why attention of this shape can't run here, or None if it can."""
        return None

    @abstractmethod
    def allocate_cache(self, spec: AttentionSpec, pages: int) -> KVCache:
        """One layer's cache of `pages` pages, contents undefined.

        Raises:
            ValueError: this back end has an `objection` to the spec.
        """

    def plan(
        self, spec: AttentionSpec, batch: RaggedBatch, *, split_tokens: int | None = None
    ) -> WorkList:
        """The step's tiles, for every layer of that spec. Reusable, but by one thread at a time.

        Where tiles are split along their keys depends on the whole batch, and so do the last bits
        of the result. With `split_tokens`, a multiple of the page, a sequence is split at its
        multiples only: the same tokens give the same bits in any company.
        """
        return WorkList.untiled(spec, batch)

    def room(self, spec: AttentionSpec, *, sequences: int, context_tokens: int) -> Room | None:
        """Where `plan_in` puts steps of up to so many sequences of one new token each.

        None where calls depend on a step's lengths in other ways than through its lists.
        """
        return None

    def plan_in(self, room: Room, batch: RaggedBatch) -> WorkList:
        """The step's tiles, in place of those that the room held.

        Calls with this list and calls with an earlier one of the same room, for batches of as many
        rows, launch the same: those that were captured can be replayed.
        """
        raise NotImplementedError(f"kernel back end {self.name!r} has no rooms")

    @abstractmethod
    def kv_write(
        self, cache: KVCache, k_TMH: torch.Tensor, v_TMH: torch.Tensor, slots_T: Int64Array
    ) -> None:
        """Put each token's keys and values into its slot (page * page_tokens + offset).

        A quantised cache stores x / scale, rounded to the nearest, ties to even, in float32: all
        back ends the same bits.
        """

    @abstractmethod
    def attend(
        self,
        q_TNH: torch.Tensor,
        cache: KVCache,
        work: WorkList,
        out: torch.Tensor | None = None,
        sinks_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Causal attention of every new token over its sequence's cached keys, [T, N, H].

        The step's own keys and values must be in the cache already. `sinks_N`, float32, is there
        where the spec has sinks.
        """

    @abstractmethod
    def rms_norm(
        self,
        x: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x / rms(x) * weight, residual) over the last dimension of x, [T, D] or [T, N, D].

        With a residual [T, D], x is added to it in place first and the sum is what's normalised;
        without, x itself comes back as the residual. The statistic is float32, the normalised value
        is rounded to x's type before the weight multiplies it. `out` may be x.
        """

    @abstractmethod
    def rope_(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
    ) -> None:
        """Rotate the first R dimensions of every head in place.

        "neox" pairs dimension i with i + R / 2, "llama" 2 i with 2 i + 1. `table_PR` is
        `rope_table`'s.
        """

    def rope_kv_write(
        self,
        q_TNH: torch.Tensor,
        k_TMH: torch.Tensor,
        v_TMH: torch.Tensor,
        positions_T: Int32Array,
        table_PR: torch.Tensor,
        style: RopeStyle,
        cache: KVCache,
        slots_T: Int64Array,
    ) -> None:
        """`rope_` and `kv_write` in one call: q rotated in place, rotated k and v in the cache.

        What k_TMH holds afterwards is unspecified.
        """
        self.rope_(q_TNH, k_TMH, positions_T, table_PR, style)
        self.kv_write(cache, k_TMH, v_TMH, slots_T)

    @abstractmethod
    def silu_mul(self, gate_up_T2F: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """silu(gate) * up of rows that hold gate and up side by side, [T, F].

        As Hugging Face does, silu(gate) is rounded to the type before up multiplies it.
        """

    def sample(self, logits_RV: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Token ids int64 [R], `NO_TOKEN` for a row of NaN or without a finite maximum.

        Where the back end `samples`. Rows may be strided; nothing waits for the device.
        """
        raise NotImplementedError(f"kernel back end {self.name!r} has no sampler")

    def pack_linear(
        self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None, *, gated: bool = False
    ) -> LinearWeights:
        """The weights in the form that `linear` reads fastest."""
        outputs, inputs = weight_OI.shape
        return PlainLinear(outputs, inputs, gated, weight_OI, bias_O)

    def linear(
        self, x_TI: torch.Tensor, weights: LinearWeights, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x W^T + bias, [T, O], or what a gated layer makes of it; in `out`'s type if given."""
        assert isinstance(weights, PlainLinear), "packed by another back end"
        product_TO = torch.nn.functional.linear(x_TI, weights.weight_OI, weights.bias_O)
        y = self.silu_mul(product_TO) if weights.gated else product_TO
        return y if out is None else out.copy_(y)
