"""The attention benchmark's parts that need no figure: peers, predictions, pictures, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import attention, attention_peers
from benchmarks.attention_cases import CASES, FEATURES, GUIDE, Case, Inputs, batch_of, spec_of
from benchmarks.attention_cost import FEWEST, predict, quantities_of
from benchmarks.attention_peers import call_of
from benchmarks.attention_plot import plot
from benchmarks.timing import medians_s
from hfx.kernels import select
from hfx.kernels.npu import fused_infer

ROOT = Path(__file__).parents[2]
ROW = [
    "case",
    "device",
    "backend",
    "threads",
    "us",
    "useful_gflops",
    "kv_gbps",
    "roof_fraction",
    "speedup_vs_sdpa",
    "max_error",
]
SMALL = Case("mixed", "9/3x64", ((1, 70),) * 2 + ((40, 0),))


def quantities(case: Case, programs: int = 2) -> tuple[float, ...]:
    spec = spec_of(case)
    batch = batch_of(case.pairs, spec.page_tokens)
    return quantities_of(select("cpu").plan(spec, batch), programs)


def test_a_peer_computes_the_same_step():
    inputs = Inputs.of(SMALL)
    call = call_of("sdpa", inputs)
    assert not isinstance(call, str)

    answers = call()

    operators = select("reference")
    work = operators.plan(inputs.spec, inputs.batch)
    truth_TNH = operators.attend(inputs.q_TNH, inputs.cache(operators), work).float()
    ours_TNH = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in answers]).float()
    torch.testing.assert_close(ours_TNH, truth_TNH, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["flash_attn", "flashinfer"])
def test_a_peer_that_is_not_there_says_why(name):
    reason = call_of(name, Inputs.of(SMALL))

    assert isinstance(reason, str) and name in reason


def test_a_peer_that_takes_large_pages_only_gets_them(monkeypatch):
    reference = select("reference")

    def demanding(name, *, device, dtype, spec):
        if spec.page_tokens % 256:
            raise RuntimeError(f"needs pages of a multiple of 256 tokens, not {spec.page_tokens}")
        return reference

    monkeypatch.setattr(attention_peers, "select", demanding)
    inputs = Inputs.of(SMALL)
    call = call_of("flash_attn", inputs)
    assert not isinstance(call, str)

    work = reference.plan(inputs.spec, inputs.batch)
    truth_TNH = reference.attend(inputs.q_TNH, inputs.cache(reference), work)
    assert torch.equal(call(), truth_TNH)


def test_a_peer_that_nobody_knows_is_an_error():
    with pytest.raises(ValueError, match="does not exist: there are"):
        call_of("flash", Inputs.of(SMALL))


def test_prices_that_are_in_the_times_are_found():
    cases = [*CASES, *FEATURES]
    rows = [quantities(case) for case in cases]
    actual_us = [max(3.0 + 1e-5 * r[1] + 4e-5 * r[2], 4e-5 * r[5]) for r in rows]

    predicted = predict(rows, actual_us)

    plain = [i for i, case in enumerate(cases) if not case.features]
    assert [predicted[i] for i in plain] == pytest.approx([actual_us[i] for i in plain], rel=0.02)


def test_few_cases_have_no_prediction():
    assert predict([quantities(SMALL)] * (FEWEST - 1), [1.0] * (FEWEST - 1)) == []


def test_a_second_program_halves_what_the_busiest_computes_and_not_what_all_read():
    one, two = quantities(CASES[0], 1), quantities(CASES[0], 2)

    assert two[1] == pytest.approx(one[1] / 2, rel=0.02)
    assert two[5] == one[5]


def test_the_summary_has_a_median_for_every_target():
    fast = {"roof_fraction": 0.9, "speedup_vs_sdpa": 3.0}
    rows = [{"case": case.name} | fast for case in CASES]
    by_four = [row for row, case in zip(rows, CASES, strict=True) if case.kind == "decode"]
    for row, fraction, times in zip(by_four, (0.5, 0.6, 0.8), (9.0, 10.0, 20.0), strict=False):
        row |= {"roof_fraction": fraction, "speedup_vs_sdpa": times}

    assert attention.summary_of(rows, threads=2) == {
        "prompt_roof_fraction": 0.9,
        "prompt_speedup_sdpa": 3.0,
        "decode_roof_fraction_g4": 0.6,
        "decode_roof_fraction_g8": 0.9,
        "decode_speedup_sdpa_2t": 10.0,
    }
    assert "decode_speedup_sdpa_2t" not in attention.summary_of(rows, threads=1)
    assert attention.summary_of([{"case": GUIDE.name} | fast], threads=2).keys() == {
        "prompt_roof_fraction",
        "prompt_speedup_sdpa",
    }


def test_every_plain_case_has_pages_that_ascends_own_attention_takes():
    objections = {case.name: fused_infer.broken_rule(spec_of(case, "npu")) for case in CASES}

    assert set(objections.values()) == {None}


@pytest.mark.parametrize(("suffix", "begins"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_a_roofline_is_drawn_in_the_format_of_its_name(tmp_path, suffix, begins):
    row = {"device": "cpu", "backend": "cpu", "product_gflops": 400.0, "read_gbps": 30.0}
    rows = [
        row | {"case": "prompt a", "useful_gflops": 350.0, "kv_gbps": 0.5},
        row | {"case": "decode b", "useful_gflops": 100.0, "kv_gbps": 25.0},
    ]

    plot(rows, tmp_path / f"roof{suffix}")

    assert (tmp_path / f"roof{suffix}").read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "roof.gif"], "must end in one of .svg, .png"),
        (["--threads", "0"], "at least 1 is needed"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_options_that_make_no_sense_are_refused(capsys, options, message):
    with pytest.raises(SystemExit):
        attention.main(options)

    assert message in capsys.readouterr().err


def test_a_back_end_that_cannot_run_the_cases_is_refused_with_the_reason():
    with pytest.raises(SystemExit, match=r"flash_attn cannot run .* on cpu"):
        attention.main(["--quick", "--backend", "flash_attn"])


def test_a_word_that_no_case_has_is_refused():
    with pytest.raises(SystemExit, match="no case's name contains it"):
        attention.main(["--quick", "--only", "nothing of the kind"])


def test_turns_time_every_way():
    times_s = medians_s({"a": lambda: None, "b": lambda: None}, rounds=2, settle_s=0.0)

    assert times_s.keys() == {"a", "b"} and min(times_s.values()) > 0


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here: it would be timed")
def test_without_the_device_the_static_table_is_printed():
    command = [sys.executable, "-m", "benchmarks.attention", "--device", "cuda"]
    done = subprocess.run(
        [*command, "--only", "silu"], cwd=ROOT, capture_output=True, text=True, timeout=280
    )

    assert done.stdout.startswith("no cuda here: static, not timed")
    assert "registers" in done.stdout and "sm_90" in done.stdout


@pytest.mark.slow
def test_every_peer_has_a_time_or_a_reason(tmp_path):
    path, picture = tmp_path / "record.json", tmp_path / "roof.svg"
    command = [sys.executable, "-m", "benchmarks.attention", "--quick", "--only", "prompt 9/3x64"]
    command += ["--against", "sdpa,flex,flash_attn,flashinfer", "--plot", str(picture)]
    done = subprocess.run(
        [*command, "--json", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )

    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())["rows"]
    assert list(row)[: len(ROW)] == ROW
    assert row["sdpa_us"] > 0 and row["speedup_vs_sdpa"] > 0
    assert row["flex_us"] or "flex not timed in any case: does not compile here" in done.stdout
    for absent in ("flash_attn", "flashinfer"):
        assert row[f"{absent}_us"] is None and f"{absent} not timed in any case: " in done.stdout
    assert picture.read_bytes().startswith(b"<?xml")
