"""The command line of `python -m hfx.bench`; names and meanings are `vllm bench serve`'s."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, NoReturn

from .attainment import GOODPUT_METRICS
from .client import ENDPOINTS
from .metrics import METRICS

DATASETS = ("random", "sharegpt", "custom", "trace")
_DESCRIPTION = """\
Measure an OpenAI-compatible server. Open loop: --request-rate, or a trace's own clock with
--use-trace-timestamps. Closed loop: --max-concurrency with the default rate of inf. --find-rate
searches for the highest rate at which enough promises are kept. Exit status: 0, 1 where no request
succeeded, 2 for unusable input."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"hfx.bench: error: {message}\n")  # one line: no usage in front of it


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        says_nothing = default is None or default is False or default in ("", [], {})
        return action.help if says_nothing else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """Every option with its default."""
    parser = _Parser(
        "python -m hfx.bench",
        description=_DESCRIPTION,
        formatter_class=_Formatter,
    )
    _server_options(parser.add_argument_group("server"))
    _workload_options(parser.add_argument_group("workload"))
    _load_options(parser.add_argument_group("load"))
    _promise_options(parser.add_argument_group("promises"))
    _result_options(parser.add_argument_group("results"))
    return parser


def _server_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--base-url", default="http://127.0.0.1:8000", help="with or without /v1 at the end")
    add("--endpoint", default="", help="path, where it isn't the back end's usual one")
    add("--backend", choices=list(ENDPOINTS), default="openai", help="completions or chat")
    add("--model", help="the first that the server lists, where not given")
    add("--api-key", help="default: the environment's OPENAI_API_KEY")
    add("--header", type=_pair, nargs="*", default=[], metavar="NAME=VALUE", help="sent with each")
    add("--extra-body", type=_json_object, default={}, metavar="JSON", help="merged into each body")
    add("--ready-check-timeout-sec", type=_not_negative, default=0.0, help="wait for the server")


def _workload_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dataset-name", choices=DATASETS, default="random", help="prompts")
    add(
        "--dataset-path",
        type=Path,
        help="sharegpt, custom: JSON array or JSON lines, ShareGPT's form or 'prompt'; trace: "
        "Azure's CSV, Mooncake's JSON lines, or CSV with [arrival_s,]input_tokens,output_tokens"
        "[,hash_ids], plain or .gz",
    )
    add("--num-prompts", type=_count, default=1000, help="requests to send")
    add("--max-input-len", type=_count, help="longer prompts of a trace are cut to so many tokens")
    add("--max-output-len", type=_count, help="longer outputs of a trace are cut likewise")
    add("--random-input-len", type=_count, default=1024, help="tokens")
    add("--random-output-len", type=_count, default=128, help="tokens")
    add("--random-range-ratio", type=float, default=0.0, help="lengths vary by up to this share")
    add("--output-len", type=_count, default=256, help="tokens, for dataset rows that name none")
    add("--tokenizer", help="tokenizer.json, its folder or a Hub id; not needed with /tokenize")
    add("--ignore-eos", action="store_true", help="generate the whole length")
    add("--seed", type=int, default=0, help="of prompts, lengths and arrivals")


def _load_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--request-rate", type=_positive, default=math.inf, help="requests per second, or inf")
    add("--burstiness", type=_positive, default=1.0, help="gamma shape of the gaps; 1 is Poisson")
    add("--max-concurrency", type=_count, help="requests under way at most")
    add("--use-trace-timestamps", action="store_true", help="send when the trace did")
    add("--trace-speed", type=_positive, default=1.0, help="replay so many times as fast")
    add(
        "--trace-jitter",
        type=_not_negative,
        default=0.0,
        metavar="S",
        help="spread arrivals over so many of the trace's seconds (Mooncake ticks every 3)",
    )
    add("--num-warmups", type=_whole, default=0, help="requests sent before the run, one by one")
    add(
        "--warmup-s",
        type=_not_negative,
        default=0.0,
        metavar="S",
        help="what starts in the first seconds is load, but in no figure",
    )
    add("--ramp-up-strategy", choices=["linear", "exponential"], help="instead of --request-rate")
    add("--ramp-up-start-rps", type=_positive, help="requests per second at the start")
    add("--ramp-up-end-rps", type=_positive, help="requests per second at the end")


def _promise_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--goodput", type=_target, nargs="+", default=[], metavar="METRIC:MS", help="ttft:200 ...")
    add(
        "--tiers",
        metavar="FILE",
        help="mix of tiers, YAML or JSON (or the YAML itself): a list of name, share, input_len, "
        "output_len, range_ratio, ttft_ms, tpot_ms, e2el_ms, send_slo, body",
    )
    add("--send-slo", action="store_true", help="send every request's targets as the field 'slo'")
    add(
        "--find-rate",
        type=_share,
        metavar="SHARE",
        help="find the highest rate that keeps this share, 0.9 or 0.99; starts at --request-rate",
    )
    add("--find-tolerance", type=_positive, default=0.05, help="how close the two rates must come")
    add("--find-runs", type=_count, default=3, help="runs at most at one rate, where it is close")


def _result_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--percentile-metrics", type=_metrics, default=",".join(METRICS), help="to report")
    add("--metric-percentiles", type=_percentiles, default="99", help="comma-separated")
    add("--save-result", action="store_true", help="write vLLM's JSON into --result-dir")
    add("--save-detailed", action="store_true", help="with the lists per request")
    add("--result-dir", type=Path, default=Path("."), help="for --save-result")
    add("--result-filename", help="for --save-result; default: from back end, load, model, date")
    add("--label", help="kept in the result")
    add("--metadata", type=_pair, nargs="*", default=[], metavar="KEY=VALUE", help="likewise")
    add("--json", type=Path, metavar="FILE", help="write machine, rows (requests) and summary")
    add("--plot", type=Path, metavar="FILE", help="draw TTFT and TPOT (.svg, .png; matplotlib)")
    add("--disable-tqdm", action="store_true", help="no progress bar")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _positive(text: str) -> float:
    if not (value := _number(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _not_negative(text: str) -> float:
    if not (value := _number(text)) >= 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _share(text: str) -> float:
    if not 0 < (value := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1, such as 0.9")
    return value


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=" if "=" in text else ":")
    if not separator or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def _metrics(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in METRICS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(METRICS)}")
    return names


def _percentiles(text: str) -> tuple[float, ...]:
    values = tuple(_number(part) for part in text.split(","))
    for value in values:
        if not 0 <= value <= 100:
            raise argparse.ArgumentTypeError(f"{value:g} is not from 0 to 100")
    return values


def _target(text: str) -> tuple[str, float]:
    name, _, limit = text.partition(":")
    if name not in GOODPUT_METRICS or not limit:
        names = ", ".join(GOODPUT_METRICS)
        raise argparse.ArgumentTypeError(f"{text!r} is not METRIC:MILLISECONDS with one of {names}")
    return name, _positive(limit)
