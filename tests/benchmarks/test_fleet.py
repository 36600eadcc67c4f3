"""The benchmark of fleets: its figures have the names asked for, and harm is seen as such."""

from benchmarks.fleet import SUMMARY
from benchmarks.fleet_kills import verdict
from hfx.bench.outcome import Outcome
from hfx.bench.workload import Prompt

WORDS = " one two three four five"


def answer(text: str, tokens: int, *, success: bool = True) -> Outcome:
    return Outcome(
        success=success,
        start_s=0.0,
        end_s=1.0,
        scheduled_s=0.0,
        output_tokens=tokens,
        text=text,
    )


def test_the_summary_has_the_names_that_are_asked_for() -> None:
    assert sorted(name for names in SUMMARY.values() for name in names) == sorted(
        [
            *("attainment_minus_simulated", "parent_ms_per_request", "added_ttft_p99_ms"),
            *("kills", "requests", "lost", "duplicated", "hung", "snapshot_core_fraction"),
        ]
    )


def test_an_answer_is_whole_lost_or_has_something_twice() -> None:
    prompt = Prompt([1], 3)

    assert verdict(answer(" one two three", 3), prompt, WORDS) == "whole"
    assert verdict(answer(" one two", 2), prompt, WORDS) == "lost"
    assert verdict(answer(" one two three", 3, success=False), prompt, WORDS) == "lost"
    assert verdict(answer(" one two two three", 4), prompt, WORDS) == "duplicated"
    assert verdict(answer(" one two two", 3), prompt, WORDS) == "duplicated"
