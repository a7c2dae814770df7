"""Typed recipes: a YAML file, its `base:` chain and `key=value` overrides, checked against dataclasses."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from detectors.errors import ConfigError
from detectors.registry import did_you_mean

S = TypeVar("S")


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 and people do; YAML 1.1 wants 1.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$"), list("+-0123456789")
)


def load(schema: type[S], path: str | Path, overrides: Sequence[str] = ()) -> S:
    """Reads a recipe.

    Args:
        schema: the dataclass that says which keys there are and of which type.
        path: a YAML file; its key `base` names another one, relative to it, whose values it changes.
        overrides: `key=value` with dotted keys, applied in order; values are read as YAML.

    Raises:
        ConfigError: a missing file, broken YAML, a `base` circle, an unknown key or a value of another type;
        the
            message names the file or override, the full key and the nearest known one.
    """
    merged = OmegaConf.structured(schema)
    for source, values in _layers(path, overrides):
        _merge(merged, values, source)
    try:
        return cast(S, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None


def given(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a recipe, those it is based on and overrides say, by dotted key; defaults are left out.

    Unlike the filled schema it stays as it is when the toolkit gains a setting or changes a default.
    """
    return {key: value for _, values in _layers(path, overrides) for key, value in _flat(values)}


def dump(config: Any) -> str:
    """The YAML text of a filled schema; reading it again gives an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def changes(config: Any) -> str:
    """`key=value` for every setting that differs from its default, one on a line."""
    return "\n".join(overrides(config, type(config)()))


def overrides(config: Any, base: Any) -> list[str]:
    """`key=value`, as a command takes it, for every setting in which a filled schema differs from another."""
    before = values_of(base)
    return [
        f"{key}={_written(value)}"
        for key, value in values_of(config).items()
        if key not in before or before[key] != value
    ]


def values_of(config: Any) -> dict[str, Any]:
    """Every setting of a filled schema by its dotted key."""
    return dict(_flat(dataclasses.asdict(config)))


def key_lines(schema: type, prefix: str = "") -> list[tuple[str, str, str]]:
    """(dotted key, default, help) of every setting, in the order of the schema, for `--help`."""
    lines = []
    instance = schema()
    for spec in dataclasses.fields(schema):
        value = getattr(instance, spec.name)
        if dataclasses.is_dataclass(value):
            lines += key_lines(type(value), f"{prefix}{spec.name}.")
        else:
            lines.append((prefix + spec.name, _written(value), spec.metadata.get("help", "")))
    return lines


def _layers(path: str | Path, overrides: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """(where it stands, values) of all that a recipe is made of; later ones win."""
    return [*_chain(Path(path)), *(_override(text) for text in overrides)]


def _chain(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """The values of a recipe and of those it is based on, the most basic first."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: its `base` chain runs in a circle; take one `base:` line out")
    values = _read_yaml(path)
    base = values.pop("base", None)
    own = [(str(path), values)]
    return [*_chain(path.parent / str(base), (*seen, path.resolve())), *own] if base else own


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        around = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        hint = did_you_mean(str(path), around) if around else ""
        raise ConfigError(f"no recipe {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the recipe {path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: a recipe is a mapping of keys to values, this is a {type(values).__name__}"
        )
    return values


def _override(text: str) -> tuple[str, dict[str, Any]]:
    """`a.b=value` as a nested mapping."""
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_*][\w*]*)*", key):
        raise ConfigError(f"{text!r} is not key=value; write for example train.epochs=10")
    try:
        nested: Any = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r}: the value is not valid YAML: {_one_line(error)}") from None
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return f"override {text!r}", nested


def _merge(config: DictConfig, values: dict[str, Any], source: str) -> None:
    """Takes values over, in place."""
    values = _with_dots(OmegaConf.get_type(config), values)
    _check_keys(config, values, source)
    try:
        config.merge_with(values)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "value"
        reason = str(error).splitlines()[0]
        if "is not a ListConfig" in reason:  # omegaconf's own words name its classes, not what to write
            reason = "takes a list, such as [1, 2]"
        raise ConfigError(f"{source}: {key}: {reason}") from None


def _with_dots(schema: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Names of layers have dots of their own: `ratios.backbone.*=0.3` means `{"backbone.*": 0.3}`."""
    if not dataclasses.is_dataclass(schema):
        return values
    kinds, joined = get_type_hints(schema), dict(values)
    for key, value in values.items():
        if isinstance(value, dict) and kinds.get(key) == dict[str, float]:
            joined[key] = dict(_flat(value))
        elif isinstance(value, dict):
            joined[key] = _with_dots(kinds.get(key), value)
    return joined


def _check_keys(config: DictConfig, values: dict[str, Any], source: str, prefix: str = "") -> None:
    """Raises ConfigError for the first key that the schema does not know."""
    schema = OmegaConf.get_type(config)
    if not dataclasses.is_dataclass(schema):
        return
    known = [spec.name for spec in dataclasses.fields(schema)]
    kinds = get_type_hints(schema)
    for key, value in values.items():
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ConfigError(f"{source}: unknown key {prefix}{key}{hint}")
        child = config._get_node(key)
        if isinstance(child, ListConfig):
            _check_items(kinds[key], value, source, prefix + key)
        if not isinstance(child, DictConfig):
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{source}: {prefix}{key} holds keys of its own; write {prefix}{key}.KEY=value")
        _check_keys(child, value, source, f"{prefix}{key}.")


def _check_items(kind: Any, value: Any, source: str, key: str) -> None:
    """Raises ConfigError for a list that is none, or whose items are not of the dataclass they must be of."""
    if isinstance(value, dict):
        raise ConfigError(f"{source}: {key}: takes a list, such as [1, 2]")
    schema = next((part for part in get_args(kind) if dataclasses.is_dataclass(part)), None)
    if schema is None or not isinstance(value, list):
        return
    for place, item in enumerate(value):
        if not isinstance(item, dict):
            raise ConfigError(f"{source}: {key}[{place}] holds keys of its own; write {key}=[{{KEY: value}}]")
        _check_keys(OmegaConf.structured(schema), item, source, f"{key}[{place}].")


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a nested mapping."""
    if not isinstance(value, dict):
        yield prefix, value
        return
    for key, item in value.items():
        yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))


def _written(value: Any) -> str:
    """A value as YAML on one line, the way an override is typed."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.strip().removesuffix("...").strip()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
