"""What a dense decoder is made of, as data: one description for every supported architecture.

D is the width of the residual stream, F of the feed-forward layer, N query heads, M key-value
heads, H head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hfx.kernels import RopeScaling

MOST_LAYERS = 4096  # more is a damaged file: names of that many tensors would fill the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder's sizes and switches; the differences between architectures are all in here.

    `window` is how many of the last tokens a query sees, itself included (0: all). `rope_divisors`
    are the frequency divisors that GGUF files of Llama 3 carry instead of a formula, one a
    dimension pair; `rope_scaling` is the formula. `max_positions` is the longest context.
    """

    architecture: str
    vocabulary: int
    width: int
    layers: int
    query_heads: int
    kv_heads: int
    head_size: int
    ffn_width: int
    norm_eps: float
    rope_base: float
    max_positions: int
    rope_scaling: RopeScaling | None = None
    rope_divisors: tuple[float, ...] | None = None
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False  # of attention's output projection
    ffn_bias: bool = False
    qk_norm: bool = False
    window: int = 0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "kv_heads", "head_size", "ffn_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.layers > MOST_LAYERS:
            raise ValueError(f"layers is {self.layers}: it must be at most {MOST_LAYERS}")
        if self.query_heads < 1 or self.query_heads % self.kv_heads:
            raise ValueError(
                f"{self.query_heads} query heads over {self.kv_heads} key-value heads: the first "
                "must be a multiple of the second"
            )
        if self.head_size % 2:
            raise ValueError(f"head_size is {self.head_size}: rotary positions need an even one")

    @property
    def query_width(self) -> int:
        """N H, features of all query heads."""
        return self.query_heads * self.head_size

    @property
    def kv_width(self) -> int:
        """M H, features of all keys (and of all values)."""
        return self.kv_heads * self.head_size

    def tensor_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor that the weights consist of, by its Hugging Face name."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.width),
            "model.norm.weight": (self.width,),
        }
        if not self.tied_embeddings:
            shapes["lm_head.weight"] = (self.vocabulary, self.width)
        for layer in range(self.layers):
            for name, shape in self._layer_shapes().items():
                shapes[f"model.layers.{layer}.{name}"] = shape
        return shapes

    @property
    def parameters(self) -> int:
        """How many numbers the weights hold, a tied embedding counted once."""
        per_layer = sum(_elements(shape) for shape in self._layer_shapes().values())
        tables = 1 if self.tied_embeddings else 2
        return tables * self.vocabulary * self.width + self.width + self.layers * per_layer

    def _layer_shapes(self) -> dict[str, tuple[int, ...]]:
        width, ffn = self.width, self.ffn_width
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (width,),
            "post_attention_layernorm.weight": (width,),
        }
        linears = (
            ("self_attn.q_proj", self.query_width, width, self.qkv_bias),
            ("self_attn.k_proj", self.kv_width, width, self.qkv_bias),
            ("self_attn.v_proj", self.kv_width, width, self.qkv_bias),
            ("self_attn.o_proj", width, self.query_width, self.output_bias),
            ("mlp.gate_proj", ffn, width, self.ffn_bias),
            ("mlp.up_proj", ffn, width, self.ffn_bias),
            ("mlp.down_proj", width, ffn, self.ffn_bias),
        )
        for name, rows, columns, has_bias in linears:
            shapes[f"{name}.weight"] = (rows, columns)
            if has_bias:
                shapes[f"{name}.bias"] = (rows,)
        if self.qk_norm:
            shapes["self_attn.q_norm.weight"] = (self.head_size,)
            shapes["self_attn.k_norm.weight"] = (self.head_size,)
        return shapes


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
