"""Who else serves the bundled model: figures recorded once, and llama-server run beside us.

llama-server gets the bundled model as bf16, as we serve it, written from its quantised file.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import gguf
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

RECORDED = Path(__file__).with_name("peers.json")
SLOTS = 16  # as many as the clients of the largest load
SLOT_TOKENS = 1024  # each holds a request's 256 + 64 tokens, or a prompt of 512


def recorded() -> dict[str, Mapping[str, float]]:
    """Figures of other servers by name, each with the names of our summary."""
    figures: dict[str, Mapping[str, float]] = json.loads(RECORDED.read_text())["figures"]
    return figures


def better(name: str) -> tuple[str, float]:
    """The recorded peer that is best at one figure, and its figure."""
    best = max if name.endswith("tok_s") or "_tok_s_" in name else min
    return best(
        ((peer, figures[name]) for peer, figures in recorded().items()), key=lambda pair: pair[1]
    )


def llama_server_command(program: Path, model: Path, port: int) -> list[str]:
    """As many threads as cores, a slot for each client, otherwise its defaults."""
    options = {
        "--model": model,
        "--port": port,
        "--host": "127.0.0.1",
        "--parallel": SLOTS,
        "--ctx-size": SLOTS * SLOT_TOKENS,
        "--threads": os.cpu_count(),
    }
    return [str(program), *(str(word) for pair in options.items() for word in pair)]


def vllm_command(python: Path, model: Path, port: int, running: int, tokens: int) -> list[str]:
    """vLLM's server with priority scheduling, otherwise its defaults."""
    options = {
        "--model": model,
        "--port": port,
        "--host": "127.0.0.1",
        "--dtype": "bfloat16",
        "--max-model-len": tokens,
        "--max-num-seqs": running,
        "--scheduling-policy": "priority",
    }
    words = [str(word) for pair in options.items() for word in pair]
    return [str(python), "-m", "vllm.entrypoints.openai.api_server", *words]


def vllm_environment(python: Path) -> dict[str, str]:
    """As it was set for the recorded figures: both cores, 2 GiB of cache, Intel's OpenMP."""
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    openmp = python.parent.parent / "lib" / "libiomp5.so"
    return environment | ({"LD_PRELOAD": str(openmp)} if openmp.exists() else {})


def write_bf16(source: Path, target: Path) -> None:
    """Copy a GGUF file with its matrices as bf16 and its vectors as F32."""
    reader = GGUFReader(str(source))
    writer = GGUFWriter(str(target), reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name not in ("general.architecture",) and not field.name.startswith("GGUF."):
            is_array = field.types[0] == GGUFValueType.ARRAY
            element = field.types[-1] if is_array else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        kind = GGMLQuantizationType.BF16 if values.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
