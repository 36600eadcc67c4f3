"""What the README prints works as printed, but for the port."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
CURLS = [text for _, text in BLOCKS if text.startswith("curl ")]
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
PRINTED_URL = "http://127.0.0.1:8000"
# What the bundled model answers to the README's questions, by a word of the program that asks.
ANSWERS = {
    "stream=True": "Red",
    "LLM(": "Paris",
    '"on_miss"': "ttft_ms",
    "SlackPolicy(": "chat 11",
}


def recipe(target: str, *variables: str) -> str:
    """The last command that `make target` runs, for the Python that runs this test."""
    command = [
        "make",
        "--dry-run",
        "--no-print-directory",
        "--old-file=install",
        target,
        *variables,
    ]
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    lines = subprocess.check_output(command, cwd=ROOT, env=environment, text=True).splitlines()
    return lines[-1].replace(".venv/bin/python", shlex.quote(sys.executable))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of what `make serve` starts, on a free port."""
    command = shlex.split(recipe("serve", "ARGS=--port 0"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        try:
            ready = next(filter(None, (re.match(r"ready: .* at (\S+)", x) for x in server.stdout)))
            yield ready[1]
        finally:
            server.terminate()
    assert server.returncode == 0


@pytest.mark.parametrize(("command", "word"), list(zip(CURLS, ("Tokyo", "finish_ms"), strict=True)))
def test_a_curl_command_is_answered(url: str, command: str, word: str) -> None:
    answer = subprocess.run(
        ["bash", "-c", command.replace(PRINTED_URL, url)], capture_output=True, check=True
    )

    assert PRINTED_URL in command
    assert word in json.dumps(json.loads(answer.stdout))


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_python_example_runs_and_prints(url: str, program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program.replace(PRINTED_URL, url)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    for marker, answer in ANSWERS.items():
        assert marker not in program or answer in done.stdout


def test_the_loop_without_an_engine_fits_on_a_screen() -> None:
    (program,) = [program for program in PROGRAMS if "SlackPolicy(" in program]

    assert len(program.splitlines()) <= 60
    assert not re.search(r"hfx\.(engine|serve)|import LLM", program)


def test_every_promised_answer_is_asked_for() -> None:
    for marker in ANSWERS:
        assert any(marker in program for program in PROGRAMS)


def test_every_file_that_the_readme_names_exists() -> None:
    names = re.findall(r"`([\w/.-]+\.(?:md|py|json|txt))`", README)

    assert {"ARCHITECTURE.md", "CONTRIBUTING.md"} <= set(names)
    assert [name for name in names if not (ROOT / name).exists()] == []
