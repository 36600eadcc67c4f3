"""What the server is told: command line over HFX_* over YAML file over defaults, read once."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hfx.config import ServeConfig

from .options import BY_NAME, OPTIONS, Option

CONFIG_ENV = "HFX_CONFIG"
KERNEL_ENV = "HFX_CPU_ISA"  # the kernels' own: read once, where they load


class SettingError(ValueError):
    """A setting that can't be used; the message names it, its value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of one option and where it comes from; no origin means the default."""

    option: Option
    value: Any
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The resolved configuration, how each option got its value, and what was left unread."""

    config: ServeConfig
    settings: tuple[Setting, ...]
    unknown_env: tuple[str, ...]


def resolve(
    given: Mapping[str, object], env: Mapping[str, str], config_file: str | None = None
) -> Settings:
    """Merge flags as `given` (flag name -> raw value), `env` and the file into a configuration.

    Raises:
        SettingError: an unknown key, a value of the wrong kind or range, or an unreadable file.
    """
    config_file = config_file or env.get(CONFIG_ENV)
    filed = _read(config_file) if config_file else {}
    settings = tuple(_pick(option, given, env, filed, config_file or "") for option in OPTIONS)
    values = {setting.option.target: setting.value for setting in settings if setting.origin}
    try:
        config = _built(ServeConfig(), values)
    except ValueError as error:
        raise SettingError(str(error)) from None
    known = {option.env for option in OPTIONS} | {CONFIG_ENV, KERNEL_ENV}
    unknown = tuple(sorted(name for name in env if name.startswith("HFX_") and name not in known))
    return Settings(config, settings, unknown)


def _pick(
    option: Option,
    given: Mapping[str, object],
    env: Mapping[str, str],
    filed: Mapping[str, object],
    path: str,
) -> Setting:
    if option.flag in given:
        key, raw, origin = f"--{option.flag}", given[option.flag], "command line"
    elif option.env in env:
        key, raw, origin = option.env, env[option.env], option.env
    elif option.flag in filed:
        key, raw, origin = f"{path}: {option.flag}", filed[option.flag], path
    else:
        return Setting(option, option.default)
    try:
        return Setting(option, option.parse(raw), origin)
    except ValueError as error:
        shown = "(hidden)" if option.secret else repr(raw)
        raise SettingError(f"{key} is {shown}: it must be {error}") from None


def _read(path: str) -> dict[str, object]:
    """Flag name -> raw value of a YAML file; keys are flag names, with dashes or underscores."""
    import yaml

    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingError(f"{path} must be a mapping of option names to values")
    return dict(_entry(path, key, value) for key, value in document.items() if value is not None)


def _entry(path: str, key: object, value: object) -> tuple[str, object]:
    name = str(key).replace("_", "-")
    if name not in BY_NAME:
        raise SettingError(f"{path}: unknown option {key!r}{nearest(name, BY_NAME)}")
    return BY_NAME[name].flag, value


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?` for a name that is almost one of `names`, else an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else "; --help lists them"


def _built(part: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """`part` with the dotted fields of `values` in place, built once so that it checks itself."""
    changes: dict[str, Any] = {}
    for entry in fields(part):
        name, value = prefix + entry.name, getattr(part, entry.name)
        if is_dataclass(value):
            changes[entry.name] = _built(value, values, f"{name}.")
        elif name in values:
            changes[entry.name] = values[name]
    return replace(part, **changes)
