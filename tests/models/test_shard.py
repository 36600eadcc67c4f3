"""How a decoder is cut for several ranks, and that parts of its files are parts of the whole."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from hypothesis import given
from hypothesis import strategies as st

from hfx.models import DecoderSpec, ModelLocation
from hfx.models.dequantize import dequantize
from hfx.models.loading import open_checkpoint
from hfx.models.shard import Shard, check_ranks, kv_heads_of_all, spans

SMOL = DecoderSpec(
    architecture="llama",
    vocabulary=49152,
    width=576,
    layers=30,
    query_heads=9,
    kv_heads=3,
    head_size=64,
    ffn_width=1536,
    norm_eps=1e-5,
    rope_base=1e4,
    max_positions=8192,
    qkv_bias=True,
    output_bias=True,
    ffn_bias=True,
)


@st.composite
def specs(draw: Any) -> tuple[DecoderSpec, int]:
    kv_heads, group = draw(st.integers(1, 9)), draw(st.integers(1, 8))
    spec = replace(
        SMOL,
        layers=1,
        kv_heads=kv_heads,
        query_heads=kv_heads * group,
        ffn_width=draw(st.integers(72, 600)),
        vocabulary=draw(st.integers(72, 600)),
    )
    return spec, draw(st.integers(1, spec.query_heads))


@given(specs())
def test_ranks_have_every_query_head_feature_and_word_once_and_the_heads_those_read(
    case: tuple[DecoderSpec, int],
) -> None:
    spec, ranks = case
    shards = [Shard.of(spec, rank, ranks) for rank in range(ranks)]
    group = spec.query_heads // spec.kv_heads

    for part, count in (
        ("query_heads", spec.query_heads),
        ("features", spec.ffn_width),
        ("words", spec.vocabulary),
    ):
        assert [i for shard in shards for i in getattr(shard, part)] == list(range(count))
        assert all(getattr(shard, part) for shard in shards)
    for shard in shards:
        assert set(shard.kv_heads) == {head // group for head in shard.query_heads}
        assert len(shard.query_heads) % len(shard.kv_heads) == 0
    sizes = [len(shard.query_heads) for shard in shards]
    assert max(sizes) - min(sizes) <= group
    assert kv_heads_of_all(spec, ranks) == max(ranks, spec.kv_heads)


def test_the_bundled_model_is_cut_in_two_by_groups_of_heads() -> None:
    first, second = (Shard.of(SMOL, rank, 2) for rank in range(2))

    assert (first.query_heads, second.query_heads) == (range(6), range(6, 9))
    assert (first.kv_heads, second.kv_heads) == (range(2), range(2, 3))
    assert (first.features, second.features) == (range(768), range(768, 1536))
    assert first.cuts()["model.layers.3.self_attn.o_proj.weight"] == (range(576), range(384))
    assert second.cuts()["model.layers.3.self_attn.k_proj.bias"] == (range(128, 192),)
    assert "model.layers.3.mlp.down_proj.bias" in first.cuts()
    assert "model.layers.3.mlp.down_proj.bias" not in second.cuts()  # it is added once


def test_widths_are_cut_at_whole_blocks_and_tiles_where_that_is_even() -> None:
    units = (256, 64, 16, 1)

    assert spans(1536, 3, units) == [range(512), range(512, 1024), range(1024, 1536)]  # by 256
    assert spans(1536, 4, units)[0] == range(384)  # by 64: 256 is not even
    assert [len(each) for each in spans(1536, 5, units)] == [320, 304, 304, 304, 304]  # by 16
    assert [len(each) for each in spans(311, 2, units)] == [156, 155]


@pytest.mark.parametrize("ranks", [0, 10])
def test_more_ranks_than_heads_are_refused_with_the_limit(ranks: int) -> None:
    with pytest.raises(
        ValueError,
        match=f"tensor_parallel_size is {ranks}, and the model has 9 query heads, of which every "
        "rank needs one: it must be from 1 to 9",
    ):
        check_ranks(SMOL, ranks)


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_K, Kind.F16, Kind.BF16])
def test_columns_of_quantised_rows_are_those_of_the_whole_wherever_blocks_end(kind: Kind) -> None:
    values = np.random.default_rng(5).standard_normal((6, 768), dtype=np.float32)
    stored = quants.quantize(values, kind) if kind != Kind.Q4_K else _random_blocks(6, 3)
    raw = torch.from_numpy(np.ascontiguousarray(stored).view(np.uint8).reshape(6, -1))
    whole = torch.empty(6, 768)
    dequantize(raw, kind, whole)

    for first, end in ((0, 768), (0, 256), (64, 192), (250, 520), (767, 768)):
        part = torch.empty(6, end - first)
        dequantize(raw, kind, part, slice(first, end))
        assert torch.equal(part, whole[:, first:end])


def _random_blocks(rows: int, blocks: int) -> np.ndarray:
    """Q4_K blocks with finite scales: numpy's quantiser has none."""
    raw = np.random.default_rng(6).integers(0, 256, (rows, blocks, 144), dtype=np.uint8)
    raw[..., :4] = np.array([0.01, 0.02], np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_parts_of_a_file_make_the_whole(ranks: int, bundled_path: Path) -> None:
    checkpoint = open_checkpoint(ModelLocation(bundled_path, "bundled"))
    spec = checkpoint.spec
    names = [
        f"model.layers.0.{name}.weight"
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj")
    ]

    for name in names:
        shape = spec.tensor_shapes()[name]
        whole, joined = torch.empty(shape), torch.full(shape, float("nan"))
        checkpoint.read(name, whole)
        for rank in range(ranks):
            rows, columns = Shard.of(spec, rank, ranks).cuts()[name]
            part = torch.empty(len(rows), len(columns))
            at = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
            checkpoint.read(name, part, *at)
            joined[at] = part
        assert torch.equal(joined, whole)
