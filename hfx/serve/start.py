"""What a start prints: the resolved configuration, the phases as they pass, and how to call it.

Times are seconds since the process was created, where the system tells, so that the interpreter
and imports count.
"""

import os
import sys
import threading
import time
from pathlib import Path

import hfx

from .settings import Setting, Settings


def say(line: str) -> None:
    """Print at once. Whoever read us may be gone (`| head`), which is no reason to stop."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Phases:
    """How long each phase of the start took; phases follow one another without gaps."""

    def __init__(self) -> None:
        age_s = process_age_s()
        self._born_s = time.monotonic() - age_s
        self._begun_s = self._born_s
        self._lock = threading.Lock()
        self.current = "imports"
        self.seconds: dict[str, float] = {}

    @property
    def total_s(self) -> float:
        """Since the process was created."""
        return time.monotonic() - self._born_s

    def enter(self, phase: str) -> None:
        """End the current phase and say how long it took; the same phase again changes nothing."""
        with self._lock:
            if phase == self.current:
                return
            now_s = time.monotonic()
            took_s = now_s - self._begun_s
            self.seconds[self.current] = self.seconds.get(self.current, 0.0) + took_s
            say(f"  {self.current:<28} {took_s:6.2f} s")
            self.current, self._begun_s = phase, now_s


def process_age_s() -> float:
    """How long this process has existed; 0 where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22, since boot
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def configuration(settings: Settings) -> str:
    """Every option with its value, those that differ from the default marked with their origin."""
    lines = [f"hfx {hfx.__version__}; * marks what differs from the defaults"]
    lines += [_line(setting) for setting in settings.settings]
    lines += [
        f"warning: {name} is no option of this server; --help lists the HFX_* variables"
        for name in settings.unknown_env
    ]
    return "\n".join(lines)


def _line(setting: Setting) -> str:
    option, value = setting.option, setting.value
    differs = setting.origin is not None and value != option.default
    mark = "*" if differs else " "
    origin = f"  ({setting.origin})" if differs else ""
    return f"{mark} {option.flag:<24} {_shown(setting)}{origin}"


def _shown(setting: Setting) -> str:
    value = setting.value
    if setting.option.secret and value:
        return f"{len(value)} set"
    if value in (None, (), ""):
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    names = (getattr(one, "name", one) for one in value) if isinstance(value, tuple) else (value,)
    return ", ".join(map(str, names))


def emulation(profile: str) -> str:
    """What a reader of the log must not overlook."""
    return (
        f"EMULATED: no device computes; steps take as long as cost profile {profile} says, and "
        "answers are made-up words, as many as max_tokens allows"
    )


def greeting(url: str, model: str, phases: Phases) -> str:
    """How long the start took, and a command that talks to the server."""
    detail = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in phases.seconds.items())
    body = '{"messages": [{"role": "user", "content": "What is the capital of Japan?"}]}'
    return (
        f"ready: {model} at {url} after {phases.total_s:.2f} s ({detail})\n"
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    )
