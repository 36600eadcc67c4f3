"""A cost model whose numbers can be checked by hand, random mixes, and the public tables."""

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from hfx.cost import Key, Limits, Mix, Piece, Regime, StepCost

KEY = Key(device="toy", model="toy", dtype="bfloat16", version="1")
PAIRS = st.lists(
    st.one_of(
        st.tuples(st.just(1), st.integers(1, 9000)),
        st.tuples(st.integers(1, 1500), st.integers(0, 6000)),
    ),
    max_size=12,
)
PRICES = st.floats(0, 1e-5)


@st.composite
def regimes(draw: st.DrawFn) -> Regime:
    """Any regime: flat stretches, free coefficients and pieces that start below 0 among them."""
    gaps = draw(st.lists(st.integers(1, 700), max_size=6))
    rises = draw(st.lists(st.sampled_from([0.0, 1e-6, 3e-5]), min_size=len(gaps)))
    knots, curve = [0.0], [draw(st.floats(0, 0.02))]
    for gap, rise in zip(gaps, rises, strict=False):
        knots.append(knots[-1] + gap)
        curve.append(curve[-1] + gap * rise)
    pieces = st.builds(
        Piece,
        fixed_s=st.floats(-0.02, 0.02),
        per_decode_context_token_s=st.sampled_from([0.0, 4e-8]),
        per_decode_times_context_token_s=st.sampled_from([0.0, 1e-9]),
        per_root_of_context_squares_s=st.sampled_from([0.0, 5e-7]),
        per_prefill_context_token_s=st.sampled_from([0.0, 2e-7]),
        per_attention_pair_s=st.sampled_from([0.0, 1e-10, 2e-9]),
    )
    return Regime(
        knots_tokens=tuple(knots),
        curve_s=tuple(curve),
        per_token_s=draw(st.floats(1e-7, 1e-4)),
        per_decode_s=draw(PRICES),
        per_chunk_s=draw(PRICES),
        pieces=tuple(draw(st.lists(pieces, max_size=3))),
        upper_factor=draw(st.floats(1, 1.5)),
    )


@pytest.fixture(scope="session")
def models() -> st.SearchStrategy[StepCost]:
    """Any cost model."""
    return st.builds(
        lambda decode, mixed: StepCost(key=KEY, decode=decode, mixed=mixed), regimes(), regimes()
    )


@pytest.fixture(scope="session")
def mixes() -> st.SearchStrategy[Mix]:
    """Any mix of up to 12 sequences."""
    return PAIRS.map(Mix.of)


@pytest.fixture
def toy() -> StepCost:
    """Decodes: 10 ms + 1 us per context token. Mixed: 12 ms + 0.1 ms a token + 1 us a pair."""
    return StepCost(
        key=KEY,
        decode=Regime(
            knots_tokens=(0,),
            curve_s=(0.010,),
            per_token_s=0,
            pieces=(Piece(per_decode_context_token_s=1e-6),),
            upper_factor=1.1,
        ),
        mixed=Regime(
            knots_tokens=(0,),
            curve_s=(0.012,),
            per_token_s=1e-4,
            pieces=(Piece(per_attention_pair_s=1e-6),),
            upper_factor=1.25,
        ),
        measured=Limits(
            decodes=8,
            decode_context_tokens=10_000,
            prefill_tokens=512,
            prefill_context_tokens=1000,
            attention_pairs=1e6,
        ),
        kv_bytes_per_token=100,
    )


@pytest.fixture(scope="session")
def profiles() -> Path:
    """The folder of public tables; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("HFX_DATA", "../shared/data")) / "profiles"
    if not folder.is_dir():
        pytest.skip(f"no public tables in {folder}: set HFX_DATA to the folder that has profiles/")
    return folder
