"""The command line: --help, --version, and turning arguments into settings. Imports stay light."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import hfx

from .options import BY_NAME, OPTIONS, Option
from .settings import CONFIG_ENV, SettingError, Settings, nearest, resolve

_EXAMPLES = """\
examples:
  python -m hfx.serve                                   the model that comes with hfx
  python -m hfx.serve ./Qwen3-0.6B --port 8001          a Hugging Face folder
  python -m hfx.serve model.gguf --max-model-len 4096   a GGUF file
  python -m hfx.serve --config serve.yaml --log-level debug
  python -m hfx.serve --device emulated:a100-llama3-8b  the speed of a device that isn't here
  HFX_API_KEY=secret python -m hfx.serve --host 0.0.0.0
  python -m hfx.serve --tiers '{chat: {ttft_ms: 500, tpot_ms: 50}, batch: {deadline_ms: 60000}}'

precedence: command line, then HFX_* environment, then --config file, then defaults.
The file is YAML; its keys are the flags without the dashes in front:

  model: ./Qwen3-0.6B
  max-num-seqs: 32
  enable-prefix-caching: false

HFX_CPU_ISA=avx2 (or avx512, avx512bf16, amx) holds the CPU kernels to an older instruction set.
"""


def parser() -> argparse.ArgumentParser:
    """The argument parser, made from the table of options."""
    made = argparse.ArgumentParser(
        prog="python -m hfx.serve",
        usage="python -m hfx.serve [MODEL] [options]",
        description="Serve a language model over the OpenAI HTTP API.",
        epilog=_EXAMPLES,
        formatter_class=_formatter,
        allow_abbrev=False,
        add_help=False,
    )
    made.add_argument(
        "positional_model", nargs="?", metavar="MODEL", help="the same as --model", default=None
    )
    general = made.add_argument_group("general")
    general.add_argument("-h", "--help", action="help", help="show this text and exit")
    general.add_argument(
        "--version",
        action="version",
        version=f"hfx {hfx.__version__}",
        help="show the version and exit",
    )
    general.add_argument(
        "--config", metavar="FILE", help=f"YAML file with any of these options [{CONFIG_ENV}]"
    )
    for group in dict.fromkeys(option.group for option in OPTIONS):
        section = made.add_argument_group(group)
        for option in OPTIONS:
            if option.group == group:
                _add(section, option)
    return made


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=100)


def _add(section: argparse._ArgumentGroup, option: Option) -> None:
    flags = [f"--{name}" for name in option.names]
    common: dict[str, Any] = {
        "dest": option.flag,
        "default": argparse.SUPPRESS,
        "help": _help(option),
    }
    if option.kind == "switch":
        section.add_argument(*flags, action=argparse.BooleanOptionalAction, **common)
    elif option.kind == "texts":
        section.add_argument(*flags, action="append", metavar="TEXT", **common)
    else:
        metavar = "{" + ",".join(option.choices) + "}" if option.choices else _METAVARS[option.kind]
        section.add_argument(*flags, metavar=metavar, **common)


_METAVARS = {"text": "TEXT", "integer": "N", "number": "X", "bytes": "BYTES", "tiers": "TIERS"}


def _help(option: Option) -> str:
    shown = option.default
    if option.kind == "switch":
        shown = "on" if shown else "off"
    default = "" if shown in (None, (), "") else f" (default: {shown})"
    return f"{option.help}{default} [{option.env}]".replace("%", "%%")


def read(arguments: Sequence[str], environment: dict[str, str]) -> Settings:
    """The settings that `arguments` and `environment` describe.

    Raises:
        SettingError: an unknown flag, a bad value, or two different models.
        SystemExit: --help or --version was asked for, or a flag lacks its value.
    """
    known, unknown = parser().parse_known_args(arguments)
    if unknown:
        flag = unknown[0].split("=")[0]
        raise SettingError(f"unknown argument {flag}{nearest(flag.lstrip('-'), BY_NAME)}")
    given = vars(known)
    config_file, model = given.pop("config"), given.pop("positional_model")
    if model is not None and given.setdefault("model", model) != model:
        raise SettingError(f"two models: {model} and --model {given['model']}; give one")
    return resolve(given, environment, config_file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop; the exit code is 2 for what the user can mend."""
    try:
        settings = read(sys.argv[1:] if arguments is None else arguments, dict(os.environ))
    except SettingError as error:
        print(f"hfx: {error}", file=sys.stderr)
        return 2
    from .server import serve  # imports FastAPI: --help must not wait for it

    return serve(settings)
