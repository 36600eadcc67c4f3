"""Tiers as people write them: inline, in a file, in the configuration; and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from hfx.config import Tier
from hfx.serve.cli import read
from hfx.serve.settings import SettingError
from hfx.serve.start import configuration
from hfx.serve.tiers import MOST_TIERS, offered, parse

TEXT = """
chat:
  ttft_ms: 500
  tpot_ms: 50.5
  weight: 2
  may_relegate: false
batch: {deadline-ms: 60000, may-refuse: true}
plain:
"""
TIERS = (
    Tier(name="chat", ttft_s=0.5, tpot_s=0.0505, weight=2, may_relegate=False),
    Tier(name="batch", deadline_s=60.0, may_refuse=True),
    Tier(name="plain"),
)


def test_a_file_and_the_mapping_itself_mean_the_same(tmp_path: Path) -> None:
    (tmp_path / "tiers.yaml").write_text(TEXT)
    inline = '{"chat": {"ttft_ms": 500, "tpot_ms": 50.5, "weight": 2, "may_relegate": false}, '
    inline += "batch: {deadline_ms: 60000, may_refuse: true}, plain: {}}"

    assert parse(str(tmp_path / "tiers.yaml")) == parse(inline) == TIERS


def test_tiers_come_by_flag_environment_or_file(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("tiers:\n  filed: {ttft_ms: 1}\n")

    by_file = read(["--config", str(config)], {})
    by_environment = read(["--config", str(config)], {"HFX_TIERS": "{env: {ttft_ms: 1}}"})
    by_flag = read(["--tiers", "{flag: {}}"], {"HFX_TIERS": "{env: {ttft_ms: 1}}"})

    assert [s.config.tiers[0].name for s in (by_file, by_environment, by_flag)] == [
        "filed",
        "env",
        "flag",
    ]
    assert "* tiers                    flag  (command line)" in configuration(by_flag)


def test_the_built_in_tiers_stay_unless_one_is_replaced() -> None:
    flex = Tier(name="flex", deadline_s=5.0)

    tiers = offered((flex, *TIERS))

    assert list(tiers) == ["default", "flex", "priority", "chat", "batch", "plain"]
    assert tiers["flex"] is flex
    assert tiers["priority"].weight > tiers["default"].weight > offered(())["flex"].weight
    assert not tiers["default"].ttft_s  # whoever asks for nothing is promised nothing


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("nowhere.yaml", "a file that can be read (No such file or directory), or {...}"),
        ("{chat: {ttft_ms: 5}", "YAML or JSON (while parsing"),
        ("{[1]: {}}", "YAML or JSON"),
        ([], "a mapping such as"),
        ({"auto": {}}, "none 'auto': not 'auto'"),
        ({"a b": {}}, "letters, digits and _.-"),
        ({"": {}}, "letters, digits and _.-"),
        ({"x" * 65: {}}, "up to 64"),
        ({"chat": 5}, "chat has none"),
        ({"chat": {"ttft": 5}}, "chat has 'ttft'"),
        ({"chat": {"ttft_ms": 0}}, "a number of milliseconds in chat.ttft_ms: not 0"),
        ({"chat": {"ttft_ms": -1}}, "chat.ttft_ms: not -1"),
        ({"chat": {"ttft_ms": float("nan")}}, "chat.ttft_ms: not nan"),
        ({"chat": {"ttft_ms": float("inf")}}, "chat.ttft_ms: not inf"),
        ({"chat": {"ttft_ms": "500"}}, "chat.ttft_ms: not '500'"),
        ({"chat": {"ttft_ms": True}}, "chat.ttft_ms: not True"),
        ({"chat": {"weight": 0}}, "a number above 0 in chat.weight: not 0"),
        ({"chat": {"may_refuse": "yes"}}, "true or false in chat.may_refuse: not 'yes'"),
        ({f"t{i}": {} for i in range(MOST_TIERS + 1)}, f"at most {MOST_TIERS} tiers"),
    ],
)
def test_what_is_no_tier_is_refused(raw: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(raw)

    assert message in str(error.value)


def test_the_flag_is_named_where_its_value_is_refused() -> None:
    with pytest.raises(SettingError, match=r"--tiers is .*: it must be a number of mill"):
        read(["--tiers", "{chat: {ttft_ms: -5}}"], {})


def test_a_tier_checks_its_own_targets() -> None:
    with pytest.raises(ValueError, match="tier chat: tpot_s is 0: it must be greater than 0"):
        Tier(name="chat", tpot_s=0)
