"""Record llama.cpp's greedy text of the bundled model in fp32, to compare ours with.

Not a test. It needs its own environment, because the binding is no dependency of hfx:

    python -m venv /tmp/llama && /tmp/llama/bin/pip install xllamacpp==2026.10.11549 gguf==0.19.0
    /tmp/llama/bin/python tests/models/record_llama_cpp.py path/to/SmolLM2-135M-Instruct.Q4_1.gguf

`xllamacpp` is llama.cpp's own `llama-server` (release b11549) in a wheel.

The quantised file is first written out with every tensor dequantised to F32, so that both sides
compute with the same weights; the KV cache is F32 too and flash attention is off.
"""

import argparse
import json
import tempfile
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import xllamacpp
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

DATA = Path(__file__).parent / "data"
OUTPUT_TOKENS = 40
WRITER_FIELDS = ("general.architecture", "general.file_type")  # the writer sets these by itself


def write_f32(source: Path, target: Path) -> None:
    """Copy a GGUF file, metadata included, with every tensor dequantised to F32."""
    reader = GGUFReader(str(source))
    writer = GGUFWriter(str(target), reader.fields["general.architecture"].contents())
    writer.add_file_type(0)  # all F32
    for field in reader.fields.values():
        if field.name not in WRITER_FIELDS and not field.name.startswith("GGUF."):
            is_array = field.types[0] == GGUFValueType.ARRAY
            element = field.types[-1] if is_array else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve_f32(model: Path) -> xllamacpp.Server:
    """llama-server on a free port of this machine, everything in F32 on one thread."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = 512
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(params)


def post(server: xllamacpp.Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + path, data, headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def greedy(server: xllamacpp.Server, prompt: str) -> dict[str, Any]:
    """Continue one prompt; `gaps` is the best logprob less the second best, per token, in nats."""
    prompt_ids = post(server, "/tokenize", {"content": prompt, "add_special": True})["tokens"]
    answer = post(
        server,
        "/completion",
        {
            "prompt": prompt_ids,
            "n_predict": OUTPUT_TOKENS,
            "temperature": 0,
            "n_probs": 2,
            "return_tokens": True,
            "cache_prompt": False,
        },
    )
    tops = [token["top_logprobs"] for token in answer["completion_probabilities"]]
    return {
        "prompt": prompt,
        "prompt_ids": prompt_ids,
        "token_ids": answer["tokens"],
        "text": answer["content"],
        "gaps": [round(best["logprob"] - second["logprob"], 5) for best, second in tops],
    }


def record(source: Path) -> dict[str, Any]:
    prompts = json.loads((DATA / "prompts.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        f32 = Path(folder) / "f32.gguf"
        write_f32(source, f32)
        server = serve_f32(f32)
        rows = [greedy(server, prompt) for prompt in prompts]
    return {
        "source": {
            "program": f"llama.cpp b11549 (xllamacpp {version('xllamacpp')})",
            "command": f"python tests/models/record_llama_cpp.py {source.name}",
            "settings": "all tensors and the KV cache F32, no flash attention, 1 thread, "
            f"raw completion, temperature 0, {OUTPUT_TOKENS} tokens or until <|im_end|>",
            "converter": f"gguf {version('gguf')}, numpy {np.__version__}",
        },
        "prompts": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Record llama.cpp's greedy text in fp32.")
    parser.add_argument("gguf", type=Path, help="the bundled model's GGUF file")
    recording = record(parser.parse_args().gguf)
    target = DATA / "greedy_llama_cpp.json"
    target.write_text(json.dumps(recording, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(recording['prompts'])} prompts written to {target}")


if __name__ == "__main__":
    main()
