"""One calibration from loading to the saved profile. Times are seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from hfx.config import EngineConfig
from hfx.cost import save
from hfx.engine.equip import Equipment, equip
from hfx.engine.measure_kernels import KernelTime, kernel_times
from hfx.engine.profiles import Calibration, calibrate, key_of, profile_path

from .tables import aligned, price_list, quality_table

KERNELS_SHARE = 0.1  # of the time to measure goes to kernels apart
FIT_SHARE = 0.1  # of the budget is kept for fitting and drawing


def measure_and_save(config: EngineConfig, json: Path | None, report: Path | None) -> None:
    """Measure, print what came out, save the profile and draw the picture where one is wanted.

    Raises:
        ValueError: a setting is impossible.
        OSError: the profile can't be saved where it should be.
    """
    phases = _Phases()
    equipment = equip(config, phases.enter)
    phases.enter("", 0.0)
    path = profile_path(config.cost.home, key_of(equipment))
    path.parent.mkdir(parents=True, exist_ok=True)  # before a minute is spent for nothing
    print(f"{equipment.model.name} loaded in {phases.total_s:.1f} s")
    print(f"load average {os.getloadavg()[0]:.2f}: let nothing else run")
    budget_s = measuring_s(config.cost.calibration_s, phases.total_s)
    kernels = kernel_times(equipment, budget_s * KERNELS_SHARE)
    calibration = _measured(equipment, budget_s * (1 - KERNELS_SHARE), phases.seconds)
    model = calibration.model
    print(f"\n{_kernel_table(kernels)}\n\n{quality_table(model)}\n\n{price_list(model)}\n")
    for target in dict.fromkeys((path, json or path)):
        save(model, target)
        print(f"profile: {target}")
    if report is not None:
        from .picture import draw  # matplotlib takes a second to load

        draw(calibration, report)
        print(f"picture: {report}")


def measuring_s(budget_s: float, spent_s: float) -> float:
    """What a budget for everything leaves to measuring: what is not spent, less the fit.

    Half of it at least, however long loading took.
    """
    return max(0.5 * budget_s, budget_s - spent_s - FIT_SHARE * budget_s)


class _Phases:
    """How long each phase of loading took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._current = ""
        self._begun_s = time.perf_counter()

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    def enter(self, phase: str, _fraction: float) -> None:
        now_s = time.perf_counter()
        if self._current:
            self.seconds[self._current] = (
                self.seconds.get(self._current, 0.0) + now_s - self._begun_s
            )
        self._current, self._begun_s = phase, now_s


def _measured(equipment: Equipment, budget_s: float, phases_s: dict[str, float]) -> Calibration:
    form = "{l_bar}{bar}| {elapsed} < {remaining} {postfix}"
    with tqdm(total=100, desc="measuring steps", bar_format=form) as bar:

        def tell(share: float, what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update(100 * share - bar.n)

        made = calibrate(equipment, budget_s, progress=tell, phases_s=phases_s)
        bar.update(100 - bar.n)
    return made


def _kernel_table(kernels: list[KernelTime]) -> str:
    rows: list[Sequence[str]] = [("kernels alone", "us", "GB/s", "GFLOP/s")]
    for each in kernels:
        rates = (each.bytes_per_s / 1e9, each.flops_per_s / 1e9)
        rows.append((each.name, f"{each.seconds * 1e6:.0f}", *(f"{rate:.1f}" for rate in rates)))
    return aligned(rows)
