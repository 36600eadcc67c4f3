"""Ranks from 1 up made ready: the same steps as rank 0's in `equip`, and then what it tells.

Messages on the pipe, in order: the weights are there; where the group meets; how many blocks this
rank could have; how many all have. Then commands until rank 0 has gone.
"""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.connection import Connection

import torch

from hfx.config import EngineConfig
from hfx.models import Group, Membership, load_decoder

from .collectives import join
from .equip import cache_for, computing_on, executor_for, settle_threads, size_for
from .lead_executor import obey
from .memory import model_len
from .rank_messages import decode


def serve(config: EngineConfig, rank: int, orders: Connection) -> None:
    """Load this rank's part and compute what rank 0 tells.

    Raises:
        EOFError: rank 0 has gone.
        ValueError, MemoryError, RuntimeError: as `equip`.
    """
    ranks = config.tensor_parallel_size

    def join_group(device: torch.device) -> Group:
        orders.send_bytes(b"loaded")
        return join(device, orders.recv_bytes().decode(), rank=rank, ranks=ranks)

    settle_threads(config, rank)
    device = computing_on(config, rank)
    config = replace(config, cache=cache_for(device, config.cache))
    decoder = load_decoder(
        config.model,
        kernel_backend=config.kernel_backend,
        device=str(device),
        page_tokens=config.cache.block_size,
        member=Membership(rank, ranks, join_group),
    )
    if decoder.operators.name == "cpu":
        torch.set_num_threads(1)
    size = size_for(config, decoder)
    orders.send_bytes(str(size.blocks).encode())
    size = replace(size, blocks=int(orders.recv_bytes()))
    max_model_len = model_len(config.model.max_model_len, decoder.spec.max_positions, size)
    executor = executor_for(config, decoder, size, max_model_len, None)
    while True:
        obey(decode(orders.recv_bytes()), executor, decoder)
