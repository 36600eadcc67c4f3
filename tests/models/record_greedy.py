"""Records what transformers writes after each prompt, for `test_greedy_text.py` to compare with.

    python tests/models/record_greedy.py

reads `data/prompts.json`, loads the bundled model's GGUF file in float32, continues every prompt
greedily, alone and without padding, and writes `data/greedy.json`. `gaps` holds, per token, how far
(in logits) the chosen token was ahead of the second: small gaps are near ties that bf16 may turn.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import bundled_gguf, transformers_from_gguf
from transformers import AutoTokenizer

DATA = Path(__file__).parent / "data"
NEW_TOKENS = 40


@torch.inference_mode()
def continue_greedily(model: Any, prompt_token_ids: list[int], eos: int) -> dict[str, Any]:
    """Up to NEW_TOKENS most likely tokens, the end-of-sequence token included if it comes."""
    token_ids: list[int] = []
    gaps: list[float] = []
    step = torch.tensor([prompt_token_ids])
    cache = None
    while len(token_ids) < NEW_TOKENS and (not token_ids or token_ids[-1] != eos):
        out = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = out.logits[0, -1].topk(2)
        token_ids.append(int(best.indices[0]))
        gaps.append(round(float(best.values[0] - best.values[1]), 4))
        step = best.indices[:1].view(1, 1)
    return {"token_ids": token_ids, "gaps": gaps}


def write(path: Path, head: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """One JSON object with one completion a line, so that a change shows where it is."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    body = json.dumps(head, indent=0)[:-2] + f',\n"completions": [\n{lines}\n]\n}}\n'
    path.write_text(body)


def main() -> None:
    path = bundled_gguf()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers_from_gguf(path)
    rows = []
    for prompt in json.loads((DATA / "prompts.json").read_text()):
        prompt_token_ids = tokenizer(prompt)["input_ids"]
        row = continue_greedily(model, prompt_token_ids, tokenizer.eos_token_id)
        text = tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        rows.append({"prompt": prompt, "prompt_token_ids": prompt_token_ids, "text": text, **row})
    head = {
        "engine": f"transformers {transformers.__version__}, torch {torch.__version__}, float32",
        "command": "python tests/models/record_greedy.py",
        "date": time.strftime("%Y-%m-%d"),
        "model": path.name,
    }
    write(DATA / "greedy.json", head, rows)


if __name__ == "__main__":
    main()
