"""Every kernel that serving launches on an Ascend device, with its types and constants.

Tiles are those of kernels/npu/tiles.json; the other constants are the launchers' for a model of 32
query and 8 key-value heads.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .ascend_compiler import kernels

TILES = Path(__file__).parent.parent / "kernels" / "npu" / "tiles.json"
CHIPS = ("Ascend910B3", "Ascend910_9391")  # Atlas A2 and A3
HEAD_SIZES = (64, 80, 96, 128, 192, 256)
PAGE, GROUP, KV_HEADS = 128, 4, 8
SMALL_ROWS = 16
SLOTS = 16
WRITTEN_NUMBERS, ROTATED_NUMBERS = 4096, 2048
FEATURES = {"WINDOW": 1024, "HAS_CAP": True, "HAS_SINKS": True}
ROW, SCALE = "*bf16", "*fp32"
ATTENTION = {
    "q": ROW, "out": ROW, "partial": "*fp32", "stats": "*fp32", "counts": "*i32", "items": "*i32",
    "table": "*i32", "score_scale": "fp32", "softcap": "fp32", "q_stride": "i32",
    "out_stride": "i32", "table_stride": "i32",
}  # fmt: skip
WRITTEN = {
    "k": ROW, "v": ROW, "slots_T": "*i64", "tokens": "i32", "k_stride": "i32", "v_stride": "i32",
}  # fmt: skip
TURNED = {"q": ROW, "positions_T": "*i32", "table": "*fp32", "q_stride": "i32"}
NORMED = {
    "x": ROW, "weight": ROW, "out": ROW, "eps": "fp32", "rows": "i32", "x_stride": "i32",
    "x_head_stride": "i32", "residual_stride": "i32", "out_stride": "i32",
    "out_head_stride": "i32",
}  # fmt: skip
GATED = {
    "gate_up": ROW, "out": ROW, "rows": "i32", "gate_up_stride": "i32", "out_stride": "i32",
}  # fmt: skip
DRAWN = {
    "logits": "*fp32", "temperature_R": "*fp32", "top_k_R": "*i32", "top_p_R": "*fp32",
    "min_p_R": "*fp32", "seed_R": "*i64", "step_R": "*i32", "tokens_R": "*i64", "V": "i32",
    "stride": "i32",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel; `types` are those of its arguments, everything else is a constant.

    `cannot` is what the compilers must say, where serving counts on their refusal and does
    something else instead, which `instead` tells.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    chips: tuple[str, ...] = CHIPS[:1]
    cannot: str = ""
    instead: str = field(default="", kw_only=True)


def cases() -> Iterator[Case]:
    """All of them; every chip gets the plain ones, the first the variants too."""
    rules = {(rule["width"], rule["quantised"]): rule for rule in json.loads(TILES.read_text())}
    for size in HEAD_SIZES:
        rule, chips = rules[_padded(size), False], CHIPS if size == 128 else CHIPS[:1]
        for kind in ("prompt", "decode", "mixed"):
            yield _attention(f"{kind} D{size}", size, rule[kind], chips=chips)
        yield _reduction(size, rule, chips)
    for width in (64, 128, 256):
        yield from _variants(width, rules[width, False], rules[width, True])
    yield from _small()


def _variants(width: int, plain: dict[str, Any], quantised: dict[str, Any]) -> Iterator[Case]:
    """A width's tiles with the features that need most, and over int8 caches."""
    for kind in ("prompt", "decode", "mixed"):
        costly = plain.get(f"{kind} window sinks", plain[kind])
        yield _attention(f"{kind} D{width} window cap sinks", width, costly, features=FEATURES)
    for kind in ("prompt", "decode"):
        name = f"{kind} D{width} window sinks"
        costly = plain.get(f"{kind} window sinks", plain[kind])
        yield _attention(name, width, costly, features=FEATURES | {"HAS_CAP": False})
        tile, name = quantised[kind], f"{kind} D{width} int8"
        yield _attention(name, width, tile, "*i8", "token")
        yield _attention(f"{name} window cap sinks", width, tile, "*i8", "token", features=FEATURES)
        yield _attention(f"{name} tensor", width, tile, "*i8", "tensor")
    assert quantised["mixed"] == quantised["prompt"], "compiled as such"


def _attention(
    name: str,
    size: int,
    tile: dict[str, Any],
    cached: str = ROW,
    scaling: str = "",
    *,
    features: dict[str, Any] | None = None,
    chips: tuple[str, ...] = CHIPS[:1],
    cannot: str = "",
    instead: str = "",
) -> Case:
    large_rows, large_keys = tile.get("large", (0, 0))
    small_keys = tile.get("small_keys", 0)
    types = ATTENTION | {"k": cached, "v": cached}
    if scaling:
        types |= {"k_scale": SCALE, "v_scale": SCALE}
    asked = {"WINDOW": 0, "HAS_CAP": False, "HAS_SINKS": False} | (features or {})
    if asked["HAS_SINKS"]:
        types |= {"sinks_N": "*fp32"}
    constants = {
        "G": GROUP,
        "M": KV_HEADS,
        "H": size,
        "W": _padded(size),
        "PAGE": PAGE,
        **asked,
        "SCALING": scaling,
        "ADDRESSING": "page",
        "LARGE_ROWS": large_rows,
        "LARGE_KEYS": large_keys,
        "SMALL_ROWS": SMALL_ROWS if small_keys else 0,
        "SMALL_KEYS": small_keys,
        "PARTIAL_ROWS": max(large_rows, SMALL_ROWS),
        "WIDEN": False,
    }
    kernel = kernels("gpu.attend").ragged_attention
    return Case(name, kernel, types, constants, chips, cannot, instead=instead)


def _reduction(size: int, rule: dict[str, Any], chips: tuple[str, ...]) -> Case:
    types = {name: ATTENTION[name] for name in ("out", "partial", "stats", "counts", "out_stride")}
    types["reductions"] = "*i32"
    constants = {"G": GROUP, "M": KV_HEADS, "H": size, "W": _padded(size)}
    constants |= {"PARTIAL_ROWS": rule["mixed"]["large"][0], "SLOTS": SLOTS, "WIDEN": False}
    return Case(f"reduce D{size}", kernels("gpu.attend").reduce_splits, types, constants, chips)


def _small() -> Iterator[Case]:
    """The operators around attention, as kernels/npu/vector.py launches them."""
    small, sample = kernels("npu.small"), kernels("gpu.sample")
    for size in (64, 80, 128, 256):
        yield from _writes(size, "", ROW)
    for scaling in ("token", "tensor"):
        yield from _writes(128, scaling, "*i8")
    for name, width, heads in (("rms_norm", 4096, 1), ("rms_norm D8192", 8192, 1)):
        yield _norm(name, width, heads, residual=True)
    yield _norm("rms_norm heads", 128, 4 * KV_HEADS, residual=False)
    yield Case(
        "silu_mul", small.silu_mul, GATED, {"F": 11008, "BLOCK": 4096, "WIDEN": False}, CHIPS
    )
    yield Case("sample", sample.sample_rows, DRAWN, {"BLOCK": 1024}, CHIPS)
    yield from _refused()


def _writes(size: int, scaling: str, cached: str) -> Iterator[Case]:
    """As many heads as a program takes at once."""
    small, name = kernels("npu.small"), f"D{size} int8 {scaling}" if scaling else f"D{size}"
    types = WRITTEN | {"k_cache": cached, "v_cache": cached}
    if scaling:
        types |= {"k_scale": SCALE, "v_scale": SCALE}
    width = _padded(size)
    written, rotated = WRITTEN_NUMBERS // width, ROTATED_NUMBERS // width
    shape = {"M": written, "H": size, "W": width, "SCALING": scaling, "WIDEN": False}
    yield Case(f"kv_write {name}", small.kv_write, types, shape | {"HEADS": written}, CHIPS)
    turn = {"N": written, "R": size, "WRITES": True, "QUERY_HEADS": rotated}
    turn |= {"KV_HEADS": rotated, "PAIRS": width // 2}
    neox, llama = (shape | turn | {"NEOX": is_neox} for is_neox in (True, False))
    yield Case(f"rope_kv_write neox {name}", small.rope, types | TURNED, neox)
    yield Case(
        f"rope_kv_write llama {name}",
        small.rope,
        types | TURNED,
        llama,
        cannot="ub overflow" if scaling else "",
        instead="rotated in place, then written",
    )
    if not scaling:
        in_place = {"k": ROW, "k_stride": "i32", "v_stride": "i32", "tokens": "i32"} | TURNED
        for style, constants in (("neox", neox), ("llama", llama)):
            constants = constants | {"WRITES": False}
            yield Case(f"rope {style} {name}", small.rope, in_place, constants)


def _norm(
    name: str, width: int, heads: int, *, residual: bool, cannot: str = "", instead: str = ""
) -> Case:
    types = NORMED | ({"residual": ROW} if residual else {})
    constants = {"HEADS": heads, "D": width, "W": width, "HAS_RESIDUAL": residual, "WIDEN": False}
    kernel = kernels("npu.small").rms_norm
    return Case(name, kernel, types, constants, CHIPS[:1], cannot, instead=instead)


def _refused() -> Iterator[Case]:
    """What the compilers can't do, so that it's noticed once they can."""
    tile = {"small_keys": 64}
    cannot = {"cannot": "unexpected type fp8", "instead": "the back end objects: int8"}
    yield _attention("decode D128 float8", 128, tile, "*fp8e4nv", "token", **cannot)
    types = WRITTEN | {"k_cache": "*fp8e4nv", "v_cache": "*fp8e4nv", "k_scale": SCALE}
    shape = {"M": KV_HEADS, "H": 128, "W": 128, "SCALING": "token", "HEADS": KV_HEADS}
    kernel = kernels("npu.small").kv_write
    types |= {"v_scale": SCALE}
    yield Case("kv_write float8", kernel, types, shape | {"WIDEN": False}, CHIPS[:1], **cannot)
    yield _norm(
        "rms_norm D16384",
        16384,
        1,
        residual=True,
        cannot="ub overflow",
        instead="plain torch, beyond 8,192",
    )


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()
