import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from hfx.bench.record import Record, finite

ROOT = Path(__file__).parents[2]


def benchmark(folder: Path, *argv: str, timeout_s: float) -> dict:
    path = folder / "record.json"
    command = [sys.executable, "-m", *argv, "--quick", "--json", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())


def test_a_record_is_machine_rows_and_summary(tmp_path):
    record = Record("example")
    record.rows.append({"shape": (1, 2), "us": math.inf})
    record.summary["speed"] = 2.0

    record.write(tmp_path / "new" / "r.json")

    read = json.loads((tmp_path / "new" / "r.json").read_text())
    assert read.keys() == {"machine", "rows", "summary"}
    assert read["rows"] == [{"shape": [1, 2], "us": None}]
    assert read["summary"] == {"speed": 2.0}
    assert read["machine"]["benchmark"] == "example"
    assert read["machine"]["python"] == sys.version.split()[0]
    assert len(read["machine"]["load_average_after"]) == 3


def test_what_is_not_finite_becomes_null_at_any_depth():
    assert finite({"a": [math.nan, {"b": -math.inf}], "c": "inf"}) == {
        "a": [None, {"b": None}],
        "c": "inf",
    }


def test_the_linear_benchmark_checks_and_times_every_layer(tmp_path):
    record = benchmark(tmp_path, "benchmarks.linear", timeout_s=120)

    assert len(record["rows"]) == 25
    assert all(row["error"] < 0.02 and row["packed_us"] > 0 for row in record["rows"])
    assert record["summary"]["read_gb_per_s"] > 0


@pytest.mark.slow
def test_the_attention_benchmark_checks_and_times_every_case(tmp_path):
    record = benchmark(tmp_path, "benchmarks.attention", timeout_s=280)

    rows, summary = record["rows"], record["summary"]
    assert len({row["case"] for row in rows}) == len(rows) > 15
    assert all(row["max_error"] < 0.08 and row["us"] > 0 < row["roof_fraction"] for row in rows)
    assert {"prompt_roof_fraction", "prompt_speedup_sdpa", "decode_roof_fraction_g4"} < set(summary)
    assert {"decode_roof_fraction_g8", "plan_us_1024"} < set(summary)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_server_benchmark_sums_up_in_the_agreed_names(tmp_path):
    record = benchmark(tmp_path, "benchmarks.serve", timeout_s=580)

    assert list(record["summary"]) == [
        "start_s",
        "decode_tok_s",
        "prompt_tok_s",
        "out_tok_s_8",
        "out_tok_s_16",
        "ttft_p99_ms_16",
        "tpot_p99_ms_16",
        "memory_mb",
    ]
    assert all(value > 0 for value in record["summary"].values())
