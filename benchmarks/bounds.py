"""What the machine's limits allow the bundled model at most, in the benchmark's own figures."""

from .limits import Limits

PARAMETERS = 134_515_008  # SmolLM2-135M; the embedding is also the head and is read once a step
EMBEDDING = 49_152 * 576
WEIGHT_BYTES = 2 * PARAMETERS  # bf16
LAYERS, QUERY_HEADS, HEAD_SIZE = 30, 9, 64


def prompt_flops(tokens: int) -> float:
    """Operations of a prompt: its matrices, its causal attention, one row of the head."""
    matrices = 2 * (PARAMETERS - EMBEDDING) * tokens
    attention = LAYERS * 4 * QUERY_HEADS * HEAD_SIZE * tokens * (tokens + 1) / 2
    return matrices + attention + 2 * EMBEDDING


def output_flops(context: float) -> float:
    """Operations of one more token behind that many."""
    return 2 * PARAMETERS + LAYERS * 4 * QUERY_HEADS * HEAD_SIZE * context


def decode_tok_s(limits: Limits) -> float:
    """One stream: every token reads all the weights."""
    return limits.read_bytes_per_s / WEIGHT_BYTES


def prompt_tok_s(limits: Limits, tokens: int) -> float:
    """A prompt at the speed of a large matrix product."""
    return tokens * limits.bf16_flops_per_s / prompt_flops(tokens)


def out_tok_s(limits: Limits, clients: int, inputs: int, outputs: int) -> float:
    """A closed loop: per request its prompt and outputs at that speed, or its share of reads."""
    decode_flops = (outputs - 1) * output_flops(inputs + outputs / 2)
    compute_s = (prompt_flops(inputs) + decode_flops) / limits.bf16_flops_per_s
    read_s = outputs * WEIGHT_BYTES / limits.read_bytes_per_s / clients
    return outputs / max(compute_s, read_s)
