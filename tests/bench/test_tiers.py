import numpy as np
import pytest

from hfx.bench.attainment import Targets
from hfx.bench.tiers import Tier, assign, read_tiers

MIX = """
- {name: chat, share: 3, input_len: 100, output_len: 20, range_ratio: 0.5, ttft_ms: 200}
- {name: batch, e2el_ms: 60000, send_slo: true, body: {priority: 9}}
"""


def test_a_mix_is_read_from_a_file_or_from_the_command_line(tmp_path):
    path = tmp_path / "mix.yaml"
    path.write_text("tiers:" + MIX.replace("\n", "\n  "))

    chat, batch = read_tiers(MIX)

    assert read_tiers(str(path)) == (chat, batch)
    assert (chat.name, chat.share, chat.targets) == ("chat", 3, Targets(ttft_s=0.2))
    assert chat.request_body == {}
    assert batch.request_body == {"priority": 9, "slo": {"deadline_ms": 60000.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is no YAML"),
        ("[]", "a mix is a list of tiers"),
        ("[{share: 1}]", "tier 1: it must be an object with a name"),
        ("[{name: a}, {name: b, size: 3}]", "tier 2: 'size' is none of name, share"),
        ("[{name: a, ttft_ms: fast}]", "tier 1: ttft_ms is 'fast': it must be int or float"),
        ("[{name: a, input_len: true}]", "input_len is True: it must be int"),
        ("[{name: a, ttft_ms: 0}]", "ttft_ms is 0: it must be above 0"),
        ("[{name: a, input_len: 3}]", "both input_len and output_len"),
        ("[{name: a}, {name: a}]", "not all different"),
    ],
)
def test_a_wrong_mix_is_refused_with_the_tier_and_the_key(text, message):
    with pytest.raises(ValueError, match=message):
        read_tiers(text)


def test_a_tier_draws_its_own_lengths_within_its_ratio():
    chat, batch = read_tiers(MIX)
    rng = np.random.default_rng(0)

    rows = [chat.draw(rng) for _ in range(500)]

    inputs = [row.input_tokens for row in rows]
    outputs = [row.output_tokens for row in rows]
    assert (min(inputs), max(inputs)) == (50, 150)
    assert (min(outputs), max(outputs)) == (10, 30)
    assert batch.draw(rng) is None


@pytest.mark.parametrize("count", [1, 7, 100])
def test_every_tier_gets_its_share_to_within_one_request(count):
    tiers = [Tier(name="a", share=1), Tier(name="b", share=2), Tier(name="c", share=4)]

    names = [tier.name for tier in assign(np.random.default_rng(0), tiers, count)]

    assert len(names) == count
    for tier in tiers:
        assert abs(names.count(tier.name) - count * tier.share / 7) <= 1
