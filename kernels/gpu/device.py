"""Which device kernels are launched on: its architecture, its cores, or the interpreter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from triton import knobs

INTERPRETER_CORES = 2  # enough for programs to share work out


@dataclass(frozen=True, slots=True)
class Device:
    """An architecture as `configs.json` names it, and its cores (SMs or CUs)."""

    architecture: str
    cores: int
    is_interpreter: bool = False

    @classmethod
    def of(cls, device: torch.device) -> Device:
        """What there is at that device, which must be a GPU unless Triton interprets."""
        if knobs.runtime.interpret:
            return cls("interpreter", INTERPRETER_CORES, is_interpreter=True)
        properties = torch.cuda.get_device_properties(device)
        if torch.version.hip:
            architecture = properties.gcnArchName.split(":")[0]
        else:
            architecture = f"sm_{properties.major}{properties.minor}"
        return cls(architecture, properties.multi_processor_count)

    @property
    def has_float8(self) -> bool:
        """Whether float8_e4m3fn can be converted there: of NVIDIA's from sm_89 on."""
        name = self.architecture
        return not name.startswith("sm_") or int(name.removeprefix("sm_")) >= 89
