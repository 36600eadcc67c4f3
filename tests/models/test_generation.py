"""Which tokens end an answer, and what a model's makers advise."""

from hfx.models.generation import (
    GenerationDefaults,
    defaults_from_folder,
    defaults_from_metadata,
)


def test_the_generation_config_wins_over_the_config() -> None:
    defaults = defaults_from_folder(
        {"eos_token_id": [7, 9], "temperature": 0.6, "top_k": 20, "do_sample": True},
        {"eos_token_id": 3},
    )

    assert defaults.eos_token_ids == (7, 9)
    assert (defaults.temperature, defaults.top_k, defaults.top_p) == (0.6, 20, None)


def test_the_config_fills_in_missing_endings() -> None:
    assert defaults_from_folder({}, {"eos_token_id": 3}).eos_token_ids == (3,)
    assert defaults_from_folder({}, {}).eos_token_ids == ()


def test_metadata_names_the_ends_of_sequence_and_turn() -> None:
    defaults = defaults_from_metadata(
        {
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.eot_token_id": 5,
            "tokenizer.ggml.eom_token_id": 2,
            "general.sampling.temp": 0.5,
        }
    )

    assert defaults.eos_token_ids == (2, 5)
    assert defaults.temperature == 0.5


def test_endings_stay_when_advice_is_ignored() -> None:
    defaults = defaults_from_folder({"eos_token_id": 7, "top_p": 0.9}, {})

    bare = defaults.only_endings().ending_with((7, None, 8))

    assert bare.eos_token_ids == (7, 8) and bare.top_p is None


def test_advice_fills_in_only_what_the_files_leave_open() -> None:
    own = GenerationDefaults(temperature=0.6, eos_token_ids=(7,))
    advice = GenerationDefaults(temperature=0.2, top_p=0.9, eos_token_ids=(3,))

    assert own.filled_from(advice) == GenerationDefaults(
        temperature=0.6, top_p=0.9, eos_token_ids=(7,)
    )
