"""The forward pass of a dense decoder, for every supported architecture: what differs is data.

T rows of a step (new tokens, and padding), R rows whose logits are wanted, D residual width, N
query heads, M key-value heads, H head size, F feed-forward width, V vocabulary, P positions, R
rotary columns of the table. Of several ranks each has its own N, M, F and rows of V; D is whole on
all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hfx.kernels import (
    AttentionSpec,
    KVCache,
    LinearWeights,
    Operators,
    RaggedBatch,
    RopeStyle,
    WorkList,
    rope_table,
)

from .group import Group
from .shard import Shard, kv_heads_of_all
from .spec import DecoderSpec

STYLE: RopeStyle = (
    "neox"  # of every checkpoint here: GGUF's rows are put back in this order at loading
)


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One layer; linears are packed by the operators that will use them, q, k and v as one."""

    input_norm_D: torch.Tensor
    qkv: LinearWeights
    q_norm_H: torch.Tensor | None
    k_norm_H: torch.Tensor | None
    output: LinearWeights
    ffn_norm_D: torch.Tensor
    gate_up: LinearWeights  # gated
    down: LinearWeights


@dataclass(frozen=True, slots=True, eq=False)
class DecoderWeights:
    """All weights of a decoder; `head` may share the embedding's numbers."""

    embedding_VD: torch.Tensor
    layers: tuple[LayerWeights, ...]
    final_norm_D: torch.Tensor
    head: LinearWeights


class Decoder:
    """A decoder on one device, or one rank's part of it. Not reentrant: one forward at a time.

    With a `group`, every rank runs the same forwards in the same order.
    """

    def __init__(
        self,
        shard: Shard,
        weights: DecoderWeights,
        operators: Operators,
        group: Group | None = None,
    ) -> None:
        assert (group is None) == (shard.ranks == 1)
        self.shard = shard
        self.spec = shard.local
        self.operators = operators
        self.group = group
        self.dtype = weights.embedding_VD.dtype
        self.device = weights.embedding_VD.device
        self._weights = weights
        self._table_PR = position_table(shard.spec).to(self.device)
        # On a CPU sums over ranks are float32's, so that a sum is rounded once, as on one rank;
        # elsewhere half the bytes matter more.
        self.sum_dtype = torch.float32 if self.device.type == "cpu" else self.dtype

    @property
    def leads(self) -> bool:
        """Whether this is the rank that has the logits."""
        return self.shard.rank == 0

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token occupies here, in all layers."""
        return 2 * self.spec.layers * self.spec.kv_width * self.dtype.itemsize

    @property
    def total_kv_bytes_per_token(self) -> int:
        """The same of all ranks together."""
        heads = kv_heads_of_all(self.shard.spec, self.shard.ranks)
        return 2 * self.spec.layers * heads * self.spec.head_size * self.dtype.itemsize

    def attention_spec(self, page_tokens: int) -> AttentionSpec:
        """What every layer asks of attention, with pages of so many tokens."""
        return attention_spec(self.spec, self.dtype, page_tokens)

    def allocate_caches(self, pages: int, page_tokens: int) -> list[KVCache]:
        """One cache a layer, contents undefined.

        Raises:
            ValueError: the operators' back end can't run attention of this shape.
        """
        spec = self.attention_spec(page_tokens)
        return [self.operators.allocate_cache(spec, pages) for _ in range(self.spec.layers)]

    @torch.inference_mode()
    def forward(
        self, token_ids_T: npt.NDArray[np.integer], batch: RaggedBatch, caches: Sequence[KVCache]
    ) -> torch.Tensor:
        """The normalised last hidden state of every new token, [T, D].

        `token_ids_T` are the batch's new tokens, packed as it says; their keys and values are in
        `caches` afterwards.
        """
        assert batch.context_lens_S.max(initial=0) <= len(self._table_PR), batch.context_lens_S
        ids_T = torch.from_numpy(token_ids_T.astype(np.int64)).to(self.device)
        return self.run(ids_T, self.operators.plan(caches[0].spec, batch), caches)

    @torch.inference_mode()
    def run(self, ids_T: torch.Tensor, work: WorkList, caches: Sequence[KVCache]) -> torch.Tensor:
        """`forward` of a step whose ids are on the device and whose attention is planned.

        The work list must be the one that the operators planned last. Of a batch with padding, the
        padding's rows come too and mean nothing.
        """
        assert len(ids_T) == work.batch.rows and len(caches) == self.spec.layers
        norm, linear, eps = self.operators.rms_norm, self.operators.linear, self.spec.norm_eps
        step = _Step(self, work)
        update_TD = self._embed(ids_T)
        residual_TD, x_TD = torch.zeros_like(update_TD), torch.empty_like(update_TD)
        sum_TD = self._sum_buffer(update_TD)
        for layer, cache in zip(self._weights.layers, caches, strict=True):
            norm(update_TD, layer.input_norm_D, eps, residual_TD, out=x_TD)
            linear(x_TD, layer.qkv, out=step.qkv)
            step.attend(layer, cache)
            linear(step.attended, layer.output, out=sum_TD)
            self._add_up(sum_TD, update_TD)
            norm(update_TD, layer.ffn_norm_D, eps, residual_TD, out=x_TD)
            linear(x_TD, layer.gate_up, out=step.ffn)
            linear(step.ffn, layer.down, out=sum_TD)
            self._add_up(sum_TD, update_TD)
        norm(update_TD, self._weights.final_norm_D, eps, residual_TD, out=x_TD)
        return x_TD

    @torch.inference_mode()
    def logits(self, hidden_RD: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """float32 [R, V] of the rows of `forward`'s result that are asked for.

        At the rank that leads. The others get [0, V], and their `out` is left as it is.
        """
        rows, vocabulary = len(hidden_RD), self.spec.vocabulary
        if self.leads and out is None:
            out = hidden_RD.new_empty(rows, vocabulary, dtype=torch.float32)
        if self.group is None:
            return self.operators.linear(hidden_RD, self._weights.head, out=out)
        own = len(self.shard.words)
        part_RW = hidden_RD.new_empty(rows, self.shard.most_words, dtype=torch.float32)
        self.operators.linear(hidden_RD, self._weights.head, out=part_RW[:, :own])
        parts = self.group.gather(part_RW)
        if not self.leads:
            return part_RW.new_empty(0, vocabulary)
        assert out is not None
        start = 0
        for part, words in zip(parts, self.shard.words_by_rank, strict=True):
            out[:, start : start + words] = part[:, :words]
            start += words
        return out

    def _embed(self, ids_T: torch.Tensor) -> torch.Tensor:
        """Rows of the embedding, [T, D]; of several ranks one has each word, and adds nothing."""
        table_VD, words = self._weights.embedding_VD, self.shard.words
        if self.group is None:
            return table_VD.index_select(0, ids_T)
        own_T = (ids_T >= words.start) & (ids_T < words.stop)
        rows_T = (ids_T - words.start).clamp_(0, len(words) - 1)
        rows_TD = table_VD.index_select(0, rows_T).masked_fill_(~own_T.unsqueeze(1), 0)
        self.group.add_up(rows_TD)
        return rows_TD

    def _sum_buffer(self, update_TD: torch.Tensor) -> torch.Tensor:
        """Where this rank's share of a sum over ranks goes; alone it is the sum."""
        if self.group is None or self.sum_dtype == self.dtype:
            return update_TD
        return torch.empty_like(update_TD, dtype=self.sum_dtype)

    def _add_up(self, sum_TD: torch.Tensor, update_TD: torch.Tensor) -> None:
        """Put the sum of all ranks' shares into `update_TD`."""
        if self.group is None:
            return
        self.group.add_up(sum_TD)
        if sum_TD is not update_TD:
            update_TD.copy_(sum_TD)


class _Step:
    """What all layers of one forward share: the plan of attention, buffers and views into them."""

    __slots__ = (
        "_attended_TNH",
        "_decoder",
        "_k_TMH",
        "_q_TNH",
        "_v_TMH",
        "_work",
        "attended",
        "ffn",
        "qkv",
    )

    def __init__(self, decoder: Decoder, work: WorkList) -> None:
        spec, tokens = decoder.spec, work.batch.rows

        def rows(width: int) -> torch.Tensor:
            return torch.empty(tokens, width, dtype=decoder.dtype, device=decoder.device)

        self._decoder, self._work = decoder, work
        self.qkv = rows(spec.query_width + 2 * spec.kv_width)
        heads = self.qkv.view(tokens, -1, spec.head_size)
        self._q_TNH = heads[:, : spec.query_heads]
        self._k_TMH = heads[:, spec.query_heads : -spec.kv_heads]
        self._v_TMH = heads[:, -spec.kv_heads :]
        self.attended = rows(spec.query_width).zero_()  # padding has no attention, and is no NaN
        self._attended_TNH = self.attended.view(tokens, spec.query_heads, spec.head_size)
        self.ffn = rows(spec.ffn_width)

    def attend(self, layer: LayerWeights, cache: KVCache) -> None:
        """From `qkv` to `attended`, by way of the layer's cache."""
        decoder, operators, batch = self._decoder, self._decoder.operators, self._work.batch
        q_TNH, k_TMH = self._q_TNH, self._k_TMH
        if layer.q_norm_H is not None and layer.k_norm_H is not None:
            operators.rms_norm(q_TNH, layer.q_norm_H, decoder.spec.norm_eps, out=q_TNH)
            operators.rms_norm(k_TMH, layer.k_norm_H, decoder.spec.norm_eps, out=k_TMH)
        operators.rope_kv_write(
            q_TNH,
            k_TMH,
            self._v_TMH,
            batch.positions_T,
            decoder._table_PR,
            STYLE,
            cache,
            batch.slots_T,
        )
        owned = batch.tokens
        operators.attend(q_TNH[:owned], cache, self._work, out=self._attended_TNH[:owned])


def attention_spec(spec: DecoderSpec, dtype: torch.dtype, page_tokens: int) -> AttentionSpec:
    """What a decoder's layers ask of attention."""
    return AttentionSpec(
        query_heads=spec.query_heads,
        kv_heads=spec.kv_heads,
        head_size=spec.head_size,
        page_tokens=page_tokens,
        dtype=dtype,
        window=spec.window,
    )


def position_table(spec: DecoderSpec) -> torch.Tensor:
    """Cosines and sines of every position, float32 [P, R]."""
    if spec.rope_divisors is None:
        return rope_table(spec.head_size, spec.rope_base, spec.max_positions, spec.rope_scaling)
    exponents = torch.arange(0, spec.head_size, 2, dtype=torch.float32) / spec.head_size
    frequencies = 1.0 / (spec.rope_base**exponents * torch.tensor(spec.rope_divisors))
    angles = torch.outer(torch.arange(spec.max_positions, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=1)
