"""How a model's makers suggest to sample from it, and which tokens end its answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """Values for what a request leaves open; None where the model says nothing.

    Any of `eos_token_ids` ends an answer.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def only_endings(self) -> GenerationDefaults:
        """The same ending tokens without any advice on sampling."""
        return GenerationDefaults(eos_token_ids=self.eos_token_ids)

    def filled_from(self, advice: GenerationDefaults) -> GenerationDefaults:
        """With another's advice where there is none here; the endings stay these."""
        missing = {name: getattr(advice, name) for name in ADVICE if getattr(self, name) is None}
        return replace(self, **missing)

    def ending_with(self, token_ids: Iterable[int | None]) -> GenerationDefaults:
        """With these tokens as endings too; None and repetitions are dropped."""
        known = dict.fromkeys((*self.eos_token_ids, *(i for i in token_ids if i is not None)))
        return replace(self, eos_token_ids=tuple(known))


def defaults_from_folder(
    generation_config: Mapping[str, Any], config: Mapping[str, Any]
) -> GenerationDefaults:
    """From `generation_config.json`; `config.json` fills in the endings if the first has none."""
    eos = generation_config.get("eos_token_id")
    if eos is None:
        eos = config.get("eos_token_id")
    endings = eos if isinstance(eos, list) else [eos]
    return GenerationDefaults(
        **_advice(generation_config, {name: name for name in ADVICE})
    ).ending_with(endings)


def defaults_from_metadata(metadata: Mapping[str, Any]) -> GenerationDefaults:
    """From a GGUF file's metadata: end of sequence, end of turn and end of message."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    return GenerationDefaults(**_advice(metadata, GGUF_ADVICE)).ending_with(
        metadata.get(f"tokenizer.ggml.{key}") for key in keys
    )


ADVICE = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "max_new_tokens": int,
}
GGUF_ADVICE = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


def _advice(found: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: ADVICE[name](found[key]) for name, key in keys.items() if found.get(key) is not None
    }
