"""Which part of a decoder each of several ranks has, and what it takes of every stored tensor.

Heads are cut by groups: a key-value head stays with the query heads that read it. Where ranks
outnumber key-value heads, several ranks hold a copy of one and share its queries. Parts need not be
even: 3 groups over 2 ranks are 2 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .spec import DecoderSpec

# Preferred sizes to cut a width into, coarsest first: whole blocks of quantised files, whole tiles
# of matrix units, whole panels of the CPU's gated layers.
UNITS = (256, 128, 64, 32, 16, 1)
ROW_PARTS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
COLUMN_PARTS = ("o_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What `rank` of `ranks` has of the decoder `spec`: heads, features and words, as ranges."""

    spec: DecoderSpec
    rank: int
    ranks: int
    query_heads: range
    kv_heads: range
    features: range
    words: range

    @classmethod
    def of(cls, spec: DecoderSpec, rank: int = 0, ranks: int = 1) -> Shard:
        """The part of one rank.

        Raises:
            ValueError: the decoder can't be cut into so many parts.
        """
        check_ranks(spec, ranks)
        assert 0 <= rank < ranks, (rank, ranks)
        query_heads, kv_heads = _heads(spec, rank, ranks)
        return cls(
            spec=spec,
            rank=rank,
            ranks=ranks,
            query_heads=query_heads,
            kv_heads=kv_heads,
            features=spans(spec.ffn_width, ranks, UNITS)[rank],
            words=spans(spec.vocabulary, ranks, UNITS)[rank],
        )

    @property
    def local(self) -> DecoderSpec:
        """The decoder that this rank's layers make; its vocabulary is the whole one."""
        return replace(
            self.spec,
            query_heads=len(self.query_heads),
            kv_heads=len(self.kv_heads),
            ffn_width=len(self.features),
        )

    @property
    def stored(self) -> DecoderSpec:
        """The decoder whose weights are as large as this rank's."""
        return replace(self.local, vocabulary=len(self.words))

    @property
    def words_by_rank(self) -> tuple[int, ...]:
        """How many words each rank has."""
        return tuple(map(len, spans(self.spec.vocabulary, self.ranks, UNITS)))

    @property
    def most_words(self) -> int:
        """Words of the rank that has most."""
        return max(self.words_by_rank)

    def cuts(self) -> Mapping[str, tuple[range, ...]]:
        """Every tensor that this rank reads, by name, and its part of each dimension.

        Biases of layers whose results are added up over the ranks are rank 0's.
        """
        found = {}
        for name, shape in self.spec.tensor_shapes().items():
            whole = tuple(map(range, shape))
            if not (self.rank and _is_added_up(name) and len(shape) == 1):
                found[name] = self._cut(name, whole)
        return found

    def _cut(self, name: str, whole: tuple[range, ...]) -> tuple[range, ...]:
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            return (self.words, whole[1])
        part = name.split(".")[-2]
        if part in ROW_PARTS:
            return (self._rows(part), *whole[1:])
        if part in COLUMN_PARTS and len(whole) == 2:
            return (whole[0], self._rows("q_proj" if part == "o_proj" else "gate_proj"))
        return whole

    def _rows(self, part: str) -> range:
        if part in ("gate_proj", "up_proj"):
            return self.features
        heads = self.query_heads if part == "q_proj" else self.kv_heads
        size = self.spec.head_size
        return range(heads.start * size, heads.stop * size)


def check_ranks(spec: DecoderSpec, ranks: int) -> None:
    """Raise unless every rank would get a part of everything.

    Raises:
        ValueError: it would not.
    """
    limits = {
        "query heads": spec.query_heads,
        "feed-forward features": spec.ffn_width,
        "words": spec.vocabulary,
    }
    for what, count in limits.items():
        if not 1 <= ranks <= count:
            raise ValueError(
                f"tensor_parallel_size is {ranks}, and the model has {count} {what}, of which "
                f"every rank needs one: it must be from 1 to {min(limits.values())}"
            )


def kv_heads_of_all(spec: DecoderSpec, ranks: int) -> int:
    """Key-value heads that all ranks hold together, copies counted."""
    return sum(len(Shard.of(spec, rank, ranks).kv_heads) for rank in range(ranks))


def spans(count: int, parts: int, units: tuple[int, ...] = (1,)) -> list[range]:
    """0 to `count` in so many runs, as even as can be: first the coarsest unit that cuts it evenly,
    else the finest one above 1 that divides it, else anywhere."""
    dividing = [unit for unit in units if count % unit == 0 and count // unit >= parts]
    even = [unit for unit in dividing if count // unit % parts == 0]
    coarse = [unit for unit in dividing if unit > 1]
    unit = even[0] if even else coarse[-1] if coarse else 1
    whole, rest = divmod(count // unit, parts)
    ends = [(part * whole + min(part, rest)) * unit for part in range(parts + 1)]
    return [range(*ends[part : part + 2]) for part in range(parts)]


def _heads(spec: DecoderSpec, rank: int, ranks: int) -> tuple[range, range]:
    """Query heads and key-value heads of a rank."""
    group = spec.query_heads // spec.kv_heads
    if ranks <= spec.kv_heads:
        kv_heads = spans(spec.kv_heads, ranks)[rank]
        return range(kv_heads.start * group, kv_heads.stop * group), kv_heads
    sharers = spans(ranks, spec.kv_heads)  # which ranks hold a copy of each key-value head
    (head,) = (index for index, holders in enumerate(sharers) if rank in holders)
    queries = spans(group, len(sharers[head]))[rank - sharers[head].start]
    first = head * group
    return range(first + queries.start, first + queries.stop), range(head, head + 1)


def _is_added_up(name: str) -> bool:
    return name.split(".")[-2] in COLUMN_PARTS
