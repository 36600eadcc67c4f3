"""The device in the server: compilations are counted, and one that is missing is explained."""

import subprocess
import sys
from typing import Any

import pytest
import torch


def test_metrics_count_compilations_and_the_cpu_has_none(server: Any) -> None:
    text = server.get("/metrics").text

    for phase in ("start", "serving"):
        labels = f'engine="0",model_name="tiny",phase="{phase}"'
        assert f"hfx:compilations_total{{{labels}}} 0.0" in text
    assert "# TYPE hfx:compilations_total counter" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_missing_ends_the_start_with_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hfx.serve", "--device", "cuda", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 2
    assert "device 'cuda' can't be used: torch" in done.stderr
    assert "hfx[gpu]" in done.stderr
    assert "Traceback" not in done.stderr
