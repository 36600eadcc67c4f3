"""What accelerators can do at most, from their data sheets: the constants of the roofline.

Dense bf16 operations per second, bytes per second, bytes. `link_bytes_per_s` is one direction of
one device's scale-up links. The shares say how much of both peaks kernels reach; NVIDIA's are from
measured GEMMs and attention (see the presets), the others are assumed alike and said to be so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Limits of one device.

    `launch_s` is the fixed time of one kernel, `step_s` what an engine adds to every step.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    link_bytes_per_s: float = 0.0
    link_latency_s: float = 10e-6
    flops_share: float = 0.75
    bytes_share: float = 0.85
    launch_s: float = 3e-6
    step_s: float = 5e-4
    source: str


_NVIDIA = "NVIDIA data sheet"
_CUBE = "cube cores x clock x 16^3 multiply-adds (CANN platform files); shares assumed"

DEVICES = {
    device.name: device
    for device in (
        Device(
            name="a100-sxm-80gb",
            flops_per_s=312e12,
            bytes_per_s=2.039e12,
            memory_bytes=80e9,
            link_bytes_per_s=300e9,
            bytes_share=0.74,  # measured GEMMs: 1.5 TB/s
            source=f"{_NVIDIA} A100 80GB SXM",
        ),
        Device(
            name="h100-sxm",
            flops_per_s=989.4e12,
            bytes_per_s=3.35e12,
            memory_bytes=80e9,
            link_bytes_per_s=450e9,
            flops_share=0.80,  # measured GEMMs: 798 TFLOPS, 2.90 TB/s
            bytes_share=0.865,
            source=f"{_NVIDIA} H100 SXM",
        ),
        Device(
            name="h200-sxm",
            flops_per_s=989.4e12,
            bytes_per_s=4.8e12,
            memory_bytes=141e9,
            link_bytes_per_s=450e9,
            flops_share=0.80,
            source=f"{_NVIDIA} H200 SXM",
        ),
        Device(
            name="b200-sxm",
            flops_per_s=2250e12,
            bytes_per_s=7.7e12,
            memory_bytes=180e9,
            link_bytes_per_s=900e9,
            source=f"{_NVIDIA} HGX B200",
        ),
        Device(
            name="l40s",
            flops_per_s=362e12,
            bytes_per_s=0.864e12,
            memory_bytes=48e9,
            link_bytes_per_s=32e9,  # PCIe 4.0 x16: it has no NVLink
            flops_share=0.65,
            source=f"{_NVIDIA} L40S",
        ),
        Device(
            name="mi300x",
            flops_per_s=1307.4e12,
            bytes_per_s=5.3e12,
            memory_bytes=192e9,
            link_bytes_per_s=448e9,
            flops_share=0.55,  # its clock falls under matrix load
            bytes_share=0.75,
            source="AMD data sheet MI300X; shares assumed",
        ),
        Device(
            name="910b1",
            flops_per_s=24 * 1.85e9 * 8192,
            bytes_per_s=1.76e12,
            memory_bytes=64e9,
            link_bytes_per_s=196e9,
            bytes_share=0.75,
            source=_CUBE,
        ),
        Device(
            name="910b2",
            flops_per_s=24 * 1.8e9 * 8192,  # 353.9 TFLOPS, as msmodeling has for Atlas 800 A2
            bytes_per_s=1.76e12,  # 1.6 TiB/s
            memory_bytes=64e9,
            link_bytes_per_s=196e9,
            bytes_share=0.75,
            source=_CUBE,
        ),
        Device(
            name="910b3",
            flops_per_s=20 * 1.8e9 * 8192,
            bytes_per_s=1.76e12,
            memory_bytes=64e9,
            link_bytes_per_s=196e9,
            bytes_share=0.75,
            source=_CUBE,
        ),
        Device(
            name="910b4",
            flops_per_s=20 * 1.5e9 * 8192,
            bytes_per_s=0.8e12,
            memory_bytes=32e9,
            link_bytes_per_s=32e9,
            bytes_share=0.75,
            source=f"{_CUBE}; memory and links by public report",
        ),
        Device(
            name="910c",
            flops_per_s=2 * 24 * 1.8e9 * 8192,
            bytes_per_s=3.2e12,
            memory_bytes=128e9,
            link_bytes_per_s=196e9,
            bytes_share=0.75,
            source=f"two dies; {_CUBE}; memory and links by public report",
        ),
        Device(
            name="cpu-2-cores",
            flops_per_s=437e9,
            bytes_per_s=36e9,
            memory_bytes=16e9,
            flops_share=0.8,
            bytes_share=0.9,
            step_s=1e-3,
            source="measured: two cores of an AMD EPYC (Zen 4), bf16 by AVX-512",
        ),
    )
}


def device(name: str) -> Device:
    """The constants of a device.

    Raises:
        ValueError: there is no such device; the message lists those there are.
    """
    if name not in DEVICES:
        raise ValueError(f"device {name!r} is not known: {', '.join(DEVICES)}")
    return DEVICES[name]
