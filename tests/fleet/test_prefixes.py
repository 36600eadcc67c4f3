"""What a parent remembers of its replicas' prefix caches."""

from hfx.fleet.prefixes import Remembered, names_of
from hfx.request import Request


def names(*tokens: int, salt: str = "") -> list[bytes]:
    return names_of(Request(id="a", prompt_token_ids=tokens, cache_salt=salt), 2)


def test_a_prompt_that_went_there_is_a_hit_as_far_as_it_is_the_same() -> None:
    known = Remembered(10, 2)
    known.touch(names(1, 2, 3, 4, 5))

    assert known.hit_tokens(names(1, 2, 3, 4, 9), 5) == 4
    assert known.hit_tokens(names(1, 2, 9, 9, 9), 5) == 2
    assert known.hit_tokens(names(1, 2, 3, 4, salt="x"), 5) == 0


def test_the_last_token_is_never_a_hit() -> None:
    known = Remembered(10, 2)
    known.touch(names(1, 2, 3, 4))

    assert known.hit_tokens(names(1, 2, 3, 4), 4) == 2


def test_as_much_is_remembered_as_the_cache_holds_and_ends_go_first() -> None:
    known = Remembered(3, 2)
    known.touch(names(1, 1, 1, 2))
    known.touch(names(2, 1, 2, 2))

    assert len(known) == 3
    assert known.hit_tokens(names(1, 1, 1, 2, 3), 5) == 2
    assert known.hit_tokens(names(2, 1, 2, 2, 3), 5) == 4


def test_a_real_hit_that_was_shorter_corrects_it() -> None:
    known = Remembered(10, 2)
    prompt = names(1, 2, 3, 4, 5, 6)
    known.touch(prompt)

    known.correct(prompt, 2)

    assert known.hit_tokens(prompt, 7) == 2
