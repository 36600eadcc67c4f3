"""Profiles are JSON: the same model comes back, and what is wrong is named with its cure."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfx.cost import Fit, Link, Startup, StepCost, load, save
from hfx.cost.profile import dumps, loads


@given(st.data())
def test_any_model_survives_the_round_trip(
    models: st.SearchStrategy[StepCost], data: st.DataObject
) -> None:
    model = data.draw(models)

    assert loads(dumps(model)) == model


def test_links_startup_and_report_come_back_from_a_file(toy: StepCost, tmp_path: Path) -> None:
    full = replace(
        toy,
        links={"device": Link(1e9, 1e-5)},
        startup=Startup({"process": 1.5, "pool": 0.25}, weight_bytes=1000),
        report={"decode": Fit(steps=9, mape=0.01, p50=0.01, p90=0.02, coverage=0.95)},
        source="by hand",
    )

    save(full, tmp_path / "toy.json")

    assert load(tmp_path / "toy.json", device="toy", tensor_parallel=1) == full
    assert full.startup is not None
    assert full.startup.by_phase_s(Link(100.0)) == {"process": 1.5, "pool": 0.25, "weights": 10.0}


@pytest.mark.parametrize(
    ("field", "value"), [("model", "other"), ("version", "2"), ("tensor_parallel", 2)]
)
def test_a_profile_of_something_else_is_refused(
    toy: StepCost, tmp_path: Path, field: str, value: str | int
) -> None:
    save(toy, tmp_path / "toy.json")

    with pytest.raises(ValueError, match=f"toy.json: the profile's {field} is .*hfx.calibrate"):
        load(tmp_path / "toy.json", **{field: value})


def damaged(change: Callable[[dict[str, Any]], object]) -> Callable[[StepCost], str]:
    def text(model: StepCost) -> str:
        plain = json.loads(dumps(model))
        change(plain)
        return json.dumps(plain)

    return text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (lambda model: dumps(model)[:-9], "not JSON"),
        (lambda model: "[]", "no cost profile"),
        (lambda model: '{"format": "x"}', "no cost profile"),
        (damaged(lambda p: p.update(format_version=9)), "format_version is 9"),
        (damaged(lambda p: p.pop("mixed")), "the profile has no 'mixed'"),
        (damaged(lambda p: p.update(more=1)), "unknown 'more'"),
        (damaged(lambda p: p.update(mixed=3)), "mixed is 3, not an object"),
        (damaged(lambda p: p["mixed"].update(per_token_s=-1)), "mixed: per_token_s is -1"),
        (damaged(lambda p: p["mixed"].update(per_token_s="1")), "mixed per_token_s is '1'"),
        (damaged(lambda p: p["mixed"].update(per_token_s=0)), "mixed per_token_s is 0"),
        (damaged(lambda p: p["decode"].update(curve_s=None)), "decode curve_s is None"),
        (damaged(lambda p: p["decode"].update(curve_s=["a"])), "decode curve_s is 'a'"),
        (damaged(lambda p: p["decode"].pop("pieces")), "decode pieces is None"),
        (
            damaged(lambda p: p["decode"]["pieces"][0].update(per_attention_pair_s=-2)),
            "decode pieces 0: per_attention_pair_s is -2",
        ),
        (damaged(lambda p: p["key"].update(device=3)), "key device is 3"),
        (damaged(lambda p: p["measured"].update(decodes=-3)), "measured: measured decodes is -3"),
        (damaged(lambda p: p.update(links={"x": {"bytes_per_s": 0, "latency_s": 0}})), "links x"),
        (damaged(lambda p: p.update(startup={"phases_s": [], "weight_bytes": 0})), "phases_s"),
        (lambda model: dumps(model).replace("0.012", "NaN"), "NaN is no number"),
    ],
)
def test_a_damaged_profile_names_field_and_cure(
    toy: StepCost, text: Callable[[StepCost], str], named: str
) -> None:
    with pytest.raises(ValueError) as raised:
        loads(text(toy))

    assert named in str(raised.value)
