"""A stand-in for torch_npu that records calls: real schemas, documented rules, answers on the CPU.

The schemas are those that torch_npu 2.13.0 documents, and torch's own dispatcher enforces them. The
rules are the constraints of the texts, for the layout TND with pages; a call that breaks one
raises, as CANN would. `TEXTS` says where they differ: torch_npu 2.13.0's own is the strictest, that
of CANN's operator (aclnnFusedInferAttentionScoreV5) the widest. One rule is read as all callers do:
the first text wants fewer queries than keys in mode 3, which would forbid a prompt without history.
It says nothing about speed or about what a device computes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from hfx.kernels import AttentionSpec, reference

if TYPE_CHECKING:
    from hfx.kernels.npu.attend import AscendTritonOperators

if find_spec("triton") is not None:
    os.environ["TRITON_INTERPRET"] = "1"  # kernels look at it when they are defined
    from triton.runtime.interpreter import interpreter_builder

    from hfx.kernels.npu import attend

    del os.environ["TRITON_INTERPRET"]

SCHEMAS = (
    "npu_fused_infer_attention_score_v2(Tensor query, Tensor key, Tensor value, *, "
    "Tensor? query_rope=None, Tensor? key_rope=None, Tensor? pse_shift=None, "
    "Tensor? atten_mask=None, SymInt[]? actual_seq_qlen=None, SymInt[]? actual_seq_kvlen=None, "
    "Tensor? block_table=None, Tensor? dequant_scale_query=None, Tensor? dequant_scale_key=None, "
    "Tensor? dequant_offset_key=None, Tensor? dequant_scale_value=None, "
    "Tensor? dequant_offset_value=None, Tensor? dequant_scale_key_rope=None, "
    "Tensor? quant_scale_out=None, Tensor? quant_offset_out=None, Tensor? quant_scale_p=None, "
    "Tensor? learnable_sink=None, int num_query_heads=1, int num_key_value_heads=0, "
    "float softmax_scale=1.0, int pre_tokens=2147483647, int next_tokens=2147483647, "
    'str input_layout="BSH", int sparse_mode=0, int block_size=0, int query_quant_mode=0, '
    "int key_quant_mode=0, int value_quant_mode=0, int inner_precise=0, "
    "bool return_softmax_lse=False, int? query_dtype=None, int? key_dtype=None, "
    "int? value_dtype=None, int? query_rope_dtype=None, int? key_rope_dtype=None, "
    "int? key_shared_prefix_dtype=None, int? value_shared_prefix_dtype=None, "
    "int? dequant_scale_query_dtype=None, int? dequant_scale_key_dtype=None, "
    "int? dequant_scale_value_dtype=None, int? dequant_scale_key_rope_dtype=None, "
    "int? out_dtype=None) -> (Tensor, Tensor)",
    "npu_scatter_pa_kv_cache(Tensor key, Tensor value, Tensor(a!) key_cache, "
    "Tensor(b!) value_cache, Tensor slot_mapping, *, Tensor? compress_lens=None, "
    "Tensor? compress_seq_offsets=None, Tensor? seq_lens=None, str? cache_mode='PA_NZ') -> ()",
    "npu_rms_norm(Tensor self, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)",
    "npu_rotary_mul(Tensor input, Tensor r1, Tensor r2, str rotary_mode='half', "
    "Tensor? rotate=None) -> Tensor",
    "npu_swiglu(Tensor self, int dim=-1) -> Tensor",
)
TEXTS = {
    "torch_npu": {"dtypes": (torch.bfloat16,), "sizes": (128, 192)},
    "cann": {"dtypes": (torch.bfloat16, torch.float16), "sizes": tuple(range(16, 513, 16))},
}
_numbers = count()


def rule(holds: bool, text: str) -> None:
    """Raise as the operator would where that rule doesn't hold."""
    if not holds:
        raise RuntimeError(f"broken rule: {text}")


def check_fused_infer(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, use: dict, text: dict
) -> None:
    """The documented rules of TND with pages."""
    mask, table = use["atten_mask"], use["block_table"]
    ends, lens = use["actual_seq_qlen"], use["actual_seq_kvlen"]
    heads, kv_heads, page = use["num_query_heads"], use["num_key_value_heads"], use["block_size"]
    tokens, size = q.shape[0], q.shape[2]
    rule(use["input_layout"] == "TND" and q.dim() == 3, "TND takes [T, N, D]")
    rule(all(x.is_contiguous() for x in (q, k, v)), "query, key and value are contiguous")
    rule(q.dtype in text["dtypes"], f"TND takes {text['dtypes']}")
    rule(q.dtype == k.dtype == v.dtype, "TND has no quantised cache")
    rule(size in text["sizes"] and q.shape[1] == heads, f"D is one of {text['sizes']}")
    rule(heads % kv_heads == 0 and heads // kv_heads <= 64, "N / KV_N is an integer up to 64")
    rule(heads <= 256 and tokens <= 1 << 20, "N is at most 256, T at most 1M")
    rule(128 <= page <= 512 and page % 128 == 0, "block_size is 128 to 512 in steps of 128")
    rule(k.shape == v.shape and k.dim() == 3, "the cache is (blocks, block_size, H)")
    rule(k.shape[1:] == (page, kv_heads * size), "the cache is (blocks, block_size, H)")
    rule(kv_heads * size <= 65535, "KV_N * D is at most 65535")
    rule(k.numel() <= 2**31 - 1, "key and value are fewer than 2^31 numbers")
    rule(0 < len(ends) == len(lens) <= 4096, "one length a batch, at most 4096")
    rule(all(type(each) is int for each in (*ends, *lens)), "lengths are integers on the host")
    rule(ends[0] >= 0 and list(ends) == sorted(ends), "actual_seq_qlen is cumulative")
    rule(ends[-1] == tokens, "actual_seq_qlen ends with T")
    rule(min(lens) >= 0, "lengths aren't negative")
    queries = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    rule(table.dtype == torch.int32 and table.dim() == 2, "block_table is 2-D int32")
    rule(table.numel() > 0 and table.is_contiguous(), "block_table isn't empty, and contiguous")
    rule(len(table) == len(lens), "block_table has a row a batch")
    rule(max(lens) <= table.shape[1] * page, "block_table is wide enough")
    needed = sum(-(-length // page) for length in lens)
    rule(needed <= len(k), "there are as many blocks as all batches need together")
    rule(use["sparse_mode"] in (3, 4), "TND with a mask is sparse mode 3 or 4")
    rule(all(q <= kv for q, kv in zip(queries, lens, strict=True)), "modes need q <= kv")
    rule(mask is not None and mask.shape == (2048, 2048), "the mask is 2048 x 2048")
    rule(mask.dtype in (torch.bool, torch.int8, torch.uint8), "the mask is bool or 8 bits")
    rule(bool((mask.bool() == torch.ones(2048, 2048).triu(1).bool()).all()), "it hides the future")
    if use["sparse_mode"] == 4:
        before, after = use["pre_tokens"], use["next_tokens"]
        rule(before + after >= 0 and all(before >= -q for q in queries), "the band isn't empty")
        rule(all(after >= -length for length in lens), "the band isn't empty")
    sink = use["learnable_sink"]
    if sink is not None:
        rule(sink.dtype == torch.bfloat16 and sink.shape == (heads,), "a sink is bfloat16 [N]")
        rule(size in (64, 128), "sinks are for D of 64 and 128")
        rule(use["inner_precise"] == 0, "sinks want the precise mode")
    unused = [name for name in use if "rope" in name or "quant" in name or name == "pse_shift"]
    given = [name for name in unused if use[name] not in (None, 0)]
    rule(not given, f"TND with pages takes none of {given}")


@dataclass
class RecordingTorchNpu:
    """The stand-in. `faults` names what it gets wrong, `calls` holds (name, arguments)."""

    faults: frozenset[str] = frozenset()
    text: str = "torch_npu"
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        namespace = f"standin_torch_npu_{next(_numbers)}"
        self._library = torch.library.Library(namespace, "DEF")
        for schema in SCHEMAS:
            name = schema.partition("(")[0]
            if name in self.faults:
                continue
            self._library.define(schema)
            self._library.impl(name, getattr(self, f"_{name}"), "CompositeExplicitAutograd")
            setattr(self, name, getattr(getattr(torch.ops, namespace), name))

    __hash__ = object.__hash__

    def named(self, name: str) -> list[dict[str, Any]]:
        """The arguments of every call of that operator."""
        return [arguments for called, arguments in self.calls if called == name]

    def _npu_fused_infer_attention_score_v2(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **use: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        arguments = self.npu_fused_infer_attention_score_v2.default._schema.arguments
        use = {each.name: each.default_value for each in arguments if each.kwarg_only} | use
        self.calls.append(("fused_infer", {"query": query, "key": key, "value": value, **use}))
        check_fused_infer(query, key, value, use, TEXTS[self.text])
        if "crash" in self.faults:
            raise RuntimeError("EZ9999: Inner Error!\nTraceBack ...")
        heads, page = use["num_key_value_heads"], use["block_size"]
        window = use["pre_tokens"] + 1 if use["sparse_mode"] == 4 else 0
        if "window" in self.faults:
            window = 0
        sink = None if "sinks" in self.faults else use["learnable_sink"]
        spec = AttentionSpec(
            query.shape[1], heads, query.shape[2], page, query.dtype, window, use["softmax_scale"]
        )
        out = torch.empty_like(query)
        start = 0
        rows = zip(use["actual_seq_qlen"], use["actual_seq_kvlen"], use["block_table"], strict=True)
        for end, context, pages in rows:
            used = pages[: -(-context // page)].long()
            k, v = (x[used].view(-1, heads, query.shape[2])[:context] for x in (key, value))
            hidden = 1 if "causal" in self.faults else 0  # as if the mask began one key too early
            k, v = k[: context - hidden], v[: context - hidden]
            out[start:end] = reference.attend(query[start:end], k, v, spec, sink)
            start = end
        return out, torch.zeros(1)

    def _npu_scatter_pa_kv_cache(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
        **use: Any,
    ) -> None:
        self.calls.append(("scatter", {"key": key, "slot_mapping": slot_mapping, **use}))
        tensors = (key, value, key_cache, value_cache)
        rule(all(x.is_contiguous() for x in tensors), "all tensors are contiguous")
        rule(len({x.dtype for x in tensors}) == 1, "all tensors have one type")
        rule(use["cache_mode"] in (None, "Norm"), "a cache in rows is 'Norm'")
        rule(slot_mapping.dtype in (torch.int32, torch.int64), "slots are int32 or int64")
        for x, cache in ((key, key_cache), (value, value_cache)):
            cache.flatten(0, 1).index_copy_(0, slot_mapping.long(), x)

    def _npu_rms_norm(
        self, x: torch.Tensor, gamma: torch.Tensor, epsilon: float = 1e-6
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls.append(("rms_norm", {"x": x, "epsilon": epsilon}))
        rule(x.dtype == gamma.dtype, "gamma has the type of x")
        scale = 2.0 if "rms_norm" in self.faults else 1.0
        return reference.rms_norm(x, gamma, epsilon).to(x.dtype) * scale, torch.zeros(1)

    def _npu_rotary_mul(
        self,
        x: torch.Tensor,
        r1: torch.Tensor,
        r2: torch.Tensor,
        rotary_mode: str = "half",
        rotate: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.calls.append(("rotary_mul", {"x": x, "r1": r1, "mode": rotary_mode}))
        rule(x.dim() == r1.dim() == r2.dim() == 4, "all tensors are 4-D")
        rule(r1.shape == r2.shape == (1, x.shape[1], 1, x.shape[3]), "BSND takes 1S1D")
        rule(x.dtype == r1.dtype == r2.dtype, "all tensors have one type")
        rule(x.shape[3] < 896 and x.shape[3] % 2 == 0 and x.shape[0] * x.shape[2] < 1000, "sizes")
        if rotary_mode == "half":
            a, b = x.chunk(2, dim=-1)
            turned = torch.cat((-b, a), dim=-1)
        else:
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return r1 * x + r2 * turned

    def _npu_swiglu(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        self.calls.append(("swiglu", {"x": x}))
        a, b = x.float().chunk(2, dim=dim)
        return (torch.nn.functional.silu(a) * b).to(x.dtype)


@pytest.fixture
def recording() -> Callable[..., RecordingTorchNpu]:
    """Makes a stand-in with those faults."""
    return lambda *faults, text="torch_npu": RecordingTorchNpu(frozenset(faults), text)


@pytest.fixture
def ascend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AscendTritonOperators]:
    """Makes the Triton back end of a device with so many cube cores, interpreted on the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    def on(cores: int = 3, refused: Mapping[str, str] | None = None) -> AscendTritonOperators:
        device = torch.device("cpu")
        return attend.AscendTritonOperators(device, cores, refused, interpreted=True)

    return on


@pytest.fixture(params=["forwards", "backwards", "shuffled"])
def program_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Programs of a launch run in that order."""
    set_index = interpreter_builder.set_grid_idx

    def permuted(x: int, y: int, z: int) -> None:
        columns = interpreter_builder.grid_dim[0]
        order = np.random.default_rng(columns).permutation(columns)
        column = {"forwards": x, "backwards": columns - 1 - x, "shuffled": int(order[x])}
        set_index(column[request.param], y, z)

    monkeypatch.setattr(interpreter_builder, "set_grid_idx", permuted)
    return request.param
