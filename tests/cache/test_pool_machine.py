"""Any order of starting, growing, leaving and failing keeps every block accounted for, and a hit
always leads to the very tokens that it was looked up for."""

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from hfx.cache import BlockPool, Holding, PrefixChain

BLOCK_TOKENS = 2
BLOCKS = 12


class Live:
    """A sequence as an engine would keep it."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = array("i", tokens)
        self.holding = Holding()
        self.chain = PrefixChain(BLOCK_TOKENS)


class Pool(RuleBasedStateMachine):
    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, BLOCK_TOKENS)
        self.written: dict[int, tuple[int, ...]] = {}  # block -> all tokens up to its end
        self.holdings: list[Holding] = []

    @rule(target=live, tokens=st.lists(st.integers(0, 1), min_size=1, max_size=8))
    def start(self, tokens: list[int]) -> Live:
        live = Live(tokens)
        hit = self.pool.lookup(live.chain.extend(live.tokens), len(tokens))
        assert len(hit.blocks) * BLOCK_TOKENS < len(tokens)
        for index, block in enumerate(hit.blocks):
            assert self.written[block] == tuple(tokens[: (index + 1) * BLOCK_TOKENS])
        need = self.pool.blocks_for(len(tokens)) - len(hit.blocks)
        if need + hit.idle <= self.pool.available:
            self.pool.take(live.holding, hit)
            self.pool.grow(live.holding, need)
            self.holdings.append(live.holding)
            self._write(live)
        return live

    @rule(live=live, token=st.integers(0, 1))
    def extend(self, live: Live, token: int) -> None:
        if not live.holding.blocks:
            return
        need = self.pool.blocks_for(len(live.tokens) + 1) - len(live.holding.blocks)
        if need <= self.pool.available:
            live.tokens.append(token)
            self.pool.grow(live.holding, need)
            self._write(live)

    @rule(live=consumes(live))
    def leave(self, live: Live) -> None:
        self.pool.release(live.holding)

    @rule(live=consumes(live))
    def fail(self, live: Live) -> None:
        self.pool.forget(live.holding)
        self.pool.release(live.holding)

    @rule()
    def clear(self) -> None:
        self.pool.clear_prefixes()

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        self.pool.check()
        held = {block for holding in self.holdings for block in holding.blocks}
        assert self.pool.available == BLOCKS - len(held)

    def _write(self, live: Live) -> None:
        names = live.chain.extend(live.tokens)
        for index, name in enumerate(names):
            block = live.holding.blocks[index]
            self.written[block] = tuple(live.tokens[: (index + 1) * BLOCK_TOKENS])
            self.pool.keep(live.holding, index, name)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
