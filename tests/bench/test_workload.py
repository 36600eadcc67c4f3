import numpy as np
import pytest

from hfx.bench.workload import (
    RandomLengths,
    TokenPool,
    random_prompts,
    read_prompts,
    take,
)


def rng():
    return np.random.default_rng(7)


def test_prompts_of_ids_have_exact_lengths_and_differ():
    pool = TokenPool(tuple(range(100, 400)))

    prompts = random_prompts(
        rng(), 50, RandomLengths(input_len=16, output_len=4), pool, as_text=False
    )

    assert {len(prompt.content) for prompt in prompts} == {16}
    assert len({tuple(prompt.content) for prompt in prompts}) == 50
    assert all(100 <= token < 400 for prompt in prompts for token in prompt.content)


def test_prompts_of_words_have_as_many_words_as_the_vocabulary_needs():
    pool = TokenPool(token_ids=(1, 2), tokens_per_word=2.0)

    (prompt,) = random_prompts(
        rng(), 1, RandomLengths(input_len=16, output_len=4), pool, as_text=True
    )

    assert len(prompt.content.split()) == 8


def test_lengths_stay_within_the_ratio_and_reach_its_edges():
    drawn = RandomLengths(range_ratio=0.5).draw(rng(), 10, 2000)

    assert (min(drawn), max(drawn)) == (5, 15)


def test_a_seed_names_a_workload():
    draws = [
        random_prompts(rng(), 5, RandomLengths(range_ratio=0.9), TokenPool(), as_text=True)
        for _ in range(2)
    ]

    assert draws[0] == draws[1]


def test_prompts_are_read_from_lines_and_from_sharegpt_arrays(tmp_path):
    lines, array = tmp_path / "a.jsonl", tmp_path / "b.json"
    lines.write_text('{"prompt": "one", "output_tokens": 3}\n\n{"prompt": "two"}\n')
    array.write_text('[{"conversations": [{"from": "human", "value": "three"}, {"value": "x"}]}]')

    read = read_prompts(lines, 9) + read_prompts(array, 9)

    assert [(p.content, p.output_tokens) for p in read] == [("one", 3), ("two", 9), ("three", 9)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}\n{"text": "b"}', "row 2: found neither"),
        ('{"prompt": "a", "output_tokens": 0}', "row 1: output_tokens is 0"),
        ('{"prompt": ', "neither a JSON array nor JSON lines"),
        ("", "holds no prompts"),
    ],
)
def test_an_unusable_file_is_refused_with_its_row(tmp_path, text, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)

    with pytest.raises(ValueError, match=message):
        read_prompts(path, 9)


def test_more_prompts_than_rows_start_over():
    prompts = random_prompts(rng(), 3, RandomLengths(), TokenPool(), as_text=True)

    taken = take(prompts, 7, rng())

    assert len(taken) == 7
    assert {prompt.content for prompt in taken} == {prompt.content for prompt in prompts}
