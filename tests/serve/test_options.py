"""Options: one table for flags, environment, file and help; who wins; what errors say."""

import subprocess
import sys
from pathlib import Path

import pytest

from hfx.config import ServeConfig
from hfx.serve.cli import read
from hfx.serve.options import OPTIONS, leaves
from hfx.serve.settings import SettingError
from hfx.serve.start import configuration

FROZEN = """
model model-path
served-model-name
dtype
max-model-len
chat-template
generation-config
revision
download-dir
seed
block-size
memory-utilization gpu-memory-utilization
kv-cache-memory-bytes
num-blocks-override num-gpu-blocks-override
enable-prefix-caching
scheduling-policy
max-num-seqs
max-num-batched-tokens
max-num-queued-reqs
tiers
cost-profile
calibration-budget
home
kernel-backend
threads
tensor-parallel-size tp
device
replicas data-parallel-size dp
launcher
ray-address
ray-port
replica-devices
dispatch
replica-lease
replica-step-timeout
replica-hold
host
port
api-key
admin-key
allowed-origins
root-path
max-request-bytes
sse-keep-alive-interval
shutdown-timeout
log-level
enable-log-requests
enable-per-request-metrics
"""


def test_the_options_are_these_and_a_change_is_deliberate() -> None:
    assert [" ".join(option.names) for option in OPTIONS] == FROZEN.split("\n")[1:-1]


def test_every_field_of_the_configuration_has_an_option() -> None:
    targets = {option.target for option in OPTIONS}

    assert {name for name, _, _ in leaves(ServeConfig())} <= targets


def test_no_arguments_give_the_defaults() -> None:
    assert read([], {}).config == ServeConfig()


def test_the_command_line_wins_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 1\nmax_num_seqs: 1\nhost: 1.1.1.1\n")
    environment = {"HFX_PORT": "2", "HFX_MAX_NUM_SEQS": "2"}

    settings = read(["--config", str(file), "--port", "3"], environment)

    config = settings.config
    assert config.http.port == 3
    assert config.engine.scheduler.max_num_seqs == 2
    assert config.http.host == "1.1.1.1"
    assert config.http.log_level == "info"


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("enable-prefix-caching: false\napi-key: [a, b]\n")

    config = read([], {"HFX_CONFIG": str(file)}).config

    assert not config.engine.cache.enable_prefix_caching
    assert config.http.api_key == ("a", "b")


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        (["m"], "m"),
        (["--model", "m"], "m"),
        (["--model-path", "m"], "m"),
        (["m", "--model", "m"], "m"),
        ([], None),
    ],
)
def test_the_model_is_positional_or_a_flag(arguments: list[str], model: str | None) -> None:
    assert read(arguments, {}).config.engine.model.model == model


def test_repeatable_and_comma_separated_values_add_up() -> None:
    config = read(["--api-key", "a", "--api-key", "b,c", "--allowed-origins", '["*"]'], {}).config

    assert config.http.api_key == ("a", "b", "c")
    assert config.http.allowed_origins == ("*",)


def test_sizes_take_units() -> None:
    config = read(["--kv-cache-memory-bytes", "1.5GiB"], {}).config

    assert config.engine.cache.kv_cache_memory_bytes == 3 << 29


def test_fields_that_depend_on_each_other_are_checked_together() -> None:
    config = read(["--max-num-seqs", "600", "--max-num-batched-tokens", "700"], {}).config

    assert config.engine.scheduler.max_num_seqs == 600


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--port", "x"], {}, "--port is 'x': it must be an integer from 0 to 65535"),
        (["--port", "65536"], {}, "--port is '65536': it must be an integer from 0 to 65535"),
        ([], {"HFX_PORT": "-1"}, "HFX_PORT is '-1': it must be an integer from 0 to 65535"),
        (["--dtype", "fp8"], {}, "--dtype is 'fp8': it must be one of auto, bfloat16, float32"),
        (["--shutdown-timeout", "nan"], {}, "--shutdown-timeout is 'nan': it must be a number"),
        ([], {"HFX_ENABLE_PREFIX_CACHING": "maybe"}, "it must be true or false"),
        (["--kv-cache-memory-bytes", "lots"], {}, "it must be a size in bytes, such as"),
        (["--block-size", "7"], {}, "block_size is 7: it must be 16, 32, 64 or 128"),
        (["--max-num-seqs", "9999"], {}, "max_num_batched_tokens (512) is below max_num_seqs"),
        (["--max-num-sequences", "1"], {}, "unknown argument --max-num-sequences; did you mean"),
        (["a", "--model", "b"], {}, "two models: a and --model b; give one"),
        (["--config", "/no/such.yaml"], {}, "--config /no/such.yaml: No such file or directory"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingError) as error:
        read(arguments, environment)

    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-num-seq: 3", "unknown option 'max-num-seq'; did you mean max-num-seqs?"),
        ("port: [1]", "port is [1]: it must be an integer from 0 to 65535"),
        ("port: true", "port is True: it must be an integer"),
        ("- port", "must be a mapping of option names to values"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_bad_file_is_named_with_the_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)

    with pytest.raises(SettingError) as error:
        read(["--config", str(file)], {})

    assert str(file) in str(error.value)
    assert message in str(error.value)


def test_a_bad_key_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("api-key: {secret: 1}")

    with pytest.raises(SettingError, match=r"api-key is \(hidden\)") as error:
        read(["--config", str(file)], {})

    assert "secret" not in str(error.value)


def test_the_resolved_configuration_marks_what_differs_and_hides_keys() -> None:
    environment = {"HFX_PROT": "1", "HFX_CPU_ISA": "avx2"}
    settings = read(["--port", "8001", "--api-key", "secret"], environment)

    text = configuration(settings)

    marked = [line.split()[1] for line in text.splitlines()[1:] if line.startswith("*")]
    assert marked == ["port", "api-key"]
    assert "secret" not in text
    assert "HFX_PROT is no option" in text
    assert "HFX_CPU_ISA" not in text


def test_help_names_every_flag_and_its_environment_variable_without_loading_torch() -> None:
    code = (
        "import sys\nfrom hfx.serve.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'fastapi', 'uvicorn', 'pydantic'} & set(sys.modules)))"
    )

    help_text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout

    assert help_text.splitlines()[-1] == "[]"
    words = help_text.replace("[", " ").replace("]", " ").replace(",", " ").split()
    for option in OPTIONS:
        assert option.env in words
        assert all(f"--{name}" in words for name in option.names)


def test_the_version_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hfx.serve", "--version"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (0, "hfx 0.1.0\n")
