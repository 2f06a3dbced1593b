"""Where each setting comes from: flags, environment, file, defaults.

A value is looked for in this order: command line flag, environment (`SANGLOC_<SECTION>_<NAME>`), TOML file
(`[section]`, `name = value`), default. A secret may also stand in a file that `SANGLOC_<SECTION>_<NAME>_FILE` names.
An unknown name is an error: a misspelt limit must not silently be no limit.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from pacs.settings import Peer, Section, Settings, Site
from storage.errors import SettingsError

__all__ = ["Entry", "Sourced", "entries", "environment", "load", "masked"]

PREFIX = "SANGLOC_"
CONFIG_PLACES = (Path("sangloc.toml"), Path("/etc/sangloc.toml"))
_NOT_SETTINGS = {"SANGLOC_CONFIG"}  # names the file itself


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting: its dotted path, its environment variable and its declaration."""

    path: str
    variable: str
    info: FieldInfo

    @property
    def secret(self) -> bool:
        """Whether the value must never be printed."""
        return "SecretStr" in str(self.info.annotation)


@dataclass(frozen=True, slots=True)
class Sourced:
    """Settings with the source of each value that is not a default."""

    settings: Settings
    sources: Mapping[str, str]
    config: Path | None = None


def entries() -> Iterator[Entry]:
    """Every setting, in the order of the declaration."""
    for name, info in Settings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            for inner, inner_info in info.annotation.model_fields.items():
                yield Entry(f"{name}.{inner}", f"{PREFIX}{name}_{inner}".upper(), inner_info)
        else:
            yield Entry(name, f"{PREFIX}{name}".upper(), info)


def load(
    *, config: Path | None = None, flags: Mapping[str, object] | None = None, env: Mapping[str, str] | None = None
) -> Sourced:
    """The settings from flags (dotted path to value; None is skipped), environment, file and defaults.

    Raises:
        SettingsError: an unknown name, a value that does not fit, or a file that cannot be read.
    """
    env = os.environ if env is None else env
    values: dict[str, tuple[object, str]] = {}
    path = _config_path(config, env)
    if path is not None:
        values |= {name: (value, f"file {path}") for name, value in _from_toml(path).items()}
    values |= _from_environment(env)
    values |= {name: (value, "flag") for name, value in (flags or {}).items() if value is not None}
    _refuse_unknown(values)
    nested: dict[str, Any] = {}
    for name, (value, _) in values.items():
        section, _, inner = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[inner] = value
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as error:
        raise SettingsError(_explain(error, values)) from None
    return Sourced(settings, {name: source for name, (_, source) in values.items()}, path)


def environment(settings: Settings) -> dict[str, str]:
    """The settings that are not defaults as environment variables, secrets included: what a child process is given."""
    return {
        entry.variable: _text(value, reveal=True)
        for entry in entries()
        if (value := _value(settings, entry.path)) != entry.info.default
    }


def masked(settings: Settings, entry: Entry) -> str:
    """The value as text, secrets as asterisks."""
    return _text(_value(settings, entry.path), reveal=False)


def _value(settings: Settings, path: str) -> object:
    value: object = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _plain(value: object, *, reveal: bool) -> object:
    match value:
        case SecretStr():
            return value.get_secret_value() if reveal else "********"
        case BaseModel():
            return {name: _plain(item, reveal=reveal) for name, item in value if item is not None}
        case dict():
            return {name: _plain(item, reveal=reveal) for name, item in value.items()}
        case tuple():
            return [_plain(item, reveal=reveal) for item in value]
        case Path():
            return str(value)
    return value


def _text(value: object, *, reveal: bool) -> str:
    plain = _plain(value, reveal=reveal)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _config_path(config: Path | None, env: Mapping[str, str]) -> Path | None:
    if config is not None or "SANGLOC_CONFIG" in env:
        named = str(config or env["SANGLOC_CONFIG"])
        return Path(named) if named else None  # an empty SANGLOC_CONFIG: no file at all
    return next((place for place in CONFIG_PLACES if place.is_file()), None)


def _from_toml(path: Path) -> dict[str, object]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from None
    flat: dict[str, object] = {}
    tables = {entry.path for entry in entries()}
    for name, value in content.items():
        if isinstance(value, dict) and name not in tables:
            flat |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            flat[name] = value
    return flat


def _from_environment(env: Mapping[str, str]) -> dict[str, tuple[object, str]]:
    by_variable = {entry.variable: entry for entry in entries()}
    found: dict[str, tuple[object, str]] = {}
    for variable in sorted(env):
        if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS:
            continue
        entry, text = by_variable.get(variable), env[variable]
        secret = by_variable.get(variable.removesuffix("_FILE"))
        if entry is None and secret is not None and secret.secret:
            entry, text = secret, _secret_from(variable, text)
        if entry is None:
            raise SettingsError(f"{variable} is not a setting{_suggestion(variable, by_variable)}")
        found[entry.path] = (_parsed(entry, variable, text), f"environment {variable}")
    return found


def _secret_from(variable: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{variable}: {path}: {error.strerror}") from None


def _parsed(entry: Entry, variable: str, text: str) -> object:
    kind, inner = get_origin(entry.info.annotation), get_args(entry.info.annotation)
    if text == "" and type(None) in inner:
        return None
    if kind not in (tuple, dict):
        return text
    if kind is tuple and inner[0] not in (Peer, Site) and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except ValueError:
        raise SettingsError(f"{variable}: write it as JSON, as docs/configuration.md shows") from None


def _refuse_unknown(values: Mapping[str, tuple[object, str]]) -> None:
    known = [entry.path for entry in entries()]
    for name, (_, source) in values.items():
        if name not in known:
            raise SettingsError(f"{source}: {name} is not a setting{_suggestion(name, known)}")


def _suggestion(name: str, known: Iterable[str]) -> str:
    plain = {other.removeprefix(PREFIX): other for other in known}
    close = difflib.get_close_matches(name.removeprefix(PREFIX), plain, n=1, cutoff=0.7)
    return f"; did you mean {plain[close[0]]}?" if close else "; `sangloc settings` lists them"


def _explain(error: ValidationError, values: Mapping[str, tuple[object, str]]) -> str:
    """The first problem in one line; the value itself is not shown, it may be a secret."""
    first = error.errors(include_input=False, include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    source = next(
        (source for path, (_, source) in values.items() if name == path or name.startswith(f"{path}.")), "settings"
    )
    return f"{source}: {name}: {first['msg'].removeprefix('Value error, ')}"
