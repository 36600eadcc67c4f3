"""Names of blocks: equal where all tokens up to the block's end, and the salt, are equal."""

from array import array

from hfx.cache import PrefixChain


def names(tokens: list[int], block_tokens: int = 4, salt: str = "") -> list[bytes]:
    return PrefixChain(block_tokens, salt).extend(array("i", tokens))


def test_only_full_blocks_have_names() -> None:
    assert [len(names(list(range(n)))) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


def test_a_name_depends_on_every_token_before_it() -> None:
    a, b = names([1, 2, 3, 4, 5, 6, 7, 8]), names([9, 2, 3, 4, 5, 6, 7, 8])

    assert a[0] != b[0] and a[1] != b[1]


def test_equal_prefixes_have_equal_names() -> None:
    a, b = names([1, 2, 3, 4, 5, 6, 7, 8]), names([1, 2, 3, 4, 5, 6, 7, 9])

    assert a[0] == b[0] and a[1] != b[1]


def test_a_salt_keeps_prefixes_apart() -> None:
    assert names([1, 2, 3, 4]) != names([1, 2, 3, 4], salt="tenant")


def test_a_chain_extended_in_pieces_is_the_chain_of_the_whole() -> None:
    chain = PrefixChain(4)
    tokens = array("i")
    for token in range(21):
        tokens.append(token)
        chain.extend(tokens)

    assert chain.names == names(list(range(21)))
