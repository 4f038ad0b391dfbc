"""Recipes and settings: TOML with `extends`, and `--set section.key=value`, become the frozen dataclass of each stage.

A setting is declared once, as a field of its stage's config: its type, its default and its help. Everything that a
person can get wrong (an unknown key, a value of the wrong type) is a FourdgenError that names the setting and says what
was expected.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fourdgen.report import FourdgenError, absent, all_at_once

RECIPE_KEYS = ("title", "time", "extends", "stages")  # at the top of a recipe; everything else is a section of settings


@dataclass(frozen=True)
class Recipe:
    """A recipe as written, `extends` already followed. `settings`: section -> key -> TOML value.

    `time`: how long it takes, in words; never that of the recipe it extends.
    """

    name: str
    path: Path
    title: str
    stages: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    time: str = ""


def recipe_folder() -> Path:
    """Where the shipped recipes are: inside the installed package, or at the top of the checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "pipelines", package.parent / "pipelines"):
        if folder.is_dir():
            return folder
    raise FourdgenError(
        "the recipes of fourdgen are missing", "install fourdgen again: pip install -e . in the checkout"
    )


def recipe_names() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in recipe_folder().glob("*.toml")))


def load_recipe(name: str) -> Recipe:
    """Reads a shipped recipe by name, or any .toml file by path.

    Raises FourdgenError: no such recipe, not TOML, an `extends` that leads back to itself, no stages.
    """
    path = _find(name, None)
    data = _follow(path, ())
    stages = data.get("stages")
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, str) for stage in stages):
        raise FourdgenError(f"{path}: a recipe needs a list of stages", 'for example stages = ["ingest", "align"]')
    settings = {key: value for key, value in data.items() if key not in RECIPE_KEYS}
    for key, value in settings.items():
        if not isinstance(value, dict):
            raise FourdgenError(f"{path}: {key}: settings belong in a section", f"for example [train] {key} = ...")
    return Recipe(path.stem, path, str(data.get("title", "")), tuple(stages), settings, str(data.get("time", "")))


def _find(name: str, beside: Path | None) -> Path:
    """The file of a recipe: a path when it looks like one (relative to `beside` first), else a shipped name."""
    if name.endswith(".toml") or "/" in name:
        near = Path(name) if beside is None else beside.parent / name
        if not near.is_file():
            raise absent(name, "shipped recipes: " + ", ".join(recipe_names()))
        return near.resolve()
    path = recipe_folder() / f"{name}.toml"
    if not path.is_file():
        raise FourdgenError(
            f"{name}: no such recipe{did_you_mean(name, recipe_names())}",
            f"recipes: {', '.join(recipe_names())}; or the path of a .toml file",
        )
    return path


def _follow(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise FourdgenError(f"{path}: extends itself: {' -> '.join(p.name for p in (*seen, path))}")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise FourdgenError(f"{path}: not a recipe: {error}", "recipes are TOML files") from error
    except UnicodeDecodeError as error:
        raise FourdgenError(f"{path}: not a recipe: not a text file", "recipes are TOML files") from error
    if "extends" not in data:
        return data
    parent = _find(str(data["extends"]), path)
    base = _follow(parent, (*seen, path))
    base.pop("time", None)
    return _merge(base, data)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def resolve(recipe: Recipe, configs: Mapping[str, type], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of every section, as an instance of its dataclass: defaults, then the recipe, then the command line.

    configs: section -> frozen dataclass. overrides: `section.key=value` texts, the later one wins. Raises one
    FourdgenError with everything that is wrong.
    """
    made, errors = resolve_sound(recipe, configs, overrides)
    if errors:
        raise all_at_once(errors)
    return made


def resolve_sound(
    recipe: Recipe, configs: Mapping[str, type], overrides: Sequence[str] = (), options: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], list[FourdgenError]]:
    """As `resolve`, for a caller who has more to check: the sections without a mistake, and all mistakes.

    options: setting -> the option of the command line by which it was given: mistakes name what was typed.
    """
    errors: list[FourdgenError] = []
    typed: dict[str, str] = {}
    broken: set[str] = set()
    values: dict[str, dict[str, Any]] = {section: {} for section in configs}

    def put(section: str, key: str, value: Any, is_text: bool) -> None:
        try:
            hint = _field_type(configs, section, key)
            convert = from_text if is_text else from_toml
            values[section][key] = convert(value, hint, f"{section}.{key}")
        except FourdgenError as error:
            errors.append(_as_typed(error, f"{section}.{key}", typed, options or {}))
            broken.add(section)

    for section, pairs in recipe.settings.items():
        if section not in configs:
            errors.append(_no_section(section, section, configs))
            continue
        for key, value in pairs.items():
            put(section, key, value, is_text=False)
    for text in overrides:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot or not key:
            errors.append(
                FourdgenError(f"--set {text}: expected section.key=value", "for example --set train.steps=500")
            )
            continue
        typed[f"{section}.{key}"] = value.strip()
        put(section, key, value.strip(), is_text=True)
    made: dict[str, Any] = {}
    for section, kind in configs.items():
        try:
            if section not in broken:
                made[section] = kind(**values[section])
        except FourdgenError as error:
            errors.append(error)
        except ValueError as error:  # raised by the dataclass's own __post_init__
            # By custom it begins with the setting, `size = 5: expected ...`, and then is said as the others are.
            key = str(error).partition(" ")[0].rstrip(":")
            wrong = FourdgenError(f"{section}.{error}" if key in types_of(kind) else f"{section}: {error}")
            errors.append(_as_typed(wrong, f"{section}.{key}", typed, options or {}))
    return made, errors


def _as_typed(
    error: FourdgenError, setting: str, typed: Mapping[str, str], options: Mapping[str, str]
) -> FourdgenError:
    """`section.key = value: expected ...` as `--option value: expected ...`, where it was given by an option."""
    begins, _, expected = error.message.partition(": ")
    if setting not in options or not begins.startswith(f"{setting} = "):
        return error
    option = options[setting]
    hint = error.hint or f"`fourdgen reconstruct --help` says what {option} is for"
    return FourdgenError(f"{option} {typed[setting]}: {expected}", hint)


def _field_type(configs: Mapping[str, type], section: str, key: str) -> Any:
    if section not in configs:
        raise _no_section(section, f"{section}.{key}", configs)
    hints = types_of(configs[section])
    if key not in hints:
        guess = did_you_mean(key, hints)
        elsewhere = [other for other, kind in configs.items() if key in types_of(kind)]
        if not guess and elsewhere:
            guess = f" (did you mean {elsewhere[0]}.{key}?)"
        names = ", ".join(hints) if hints else "none"
        raise FourdgenError(f"{section}.{key}: no such setting{guess}", f"settings of {section}: {names}")
    return hints[key]


def _no_section(section: str, said: str, configs: Mapping[str, type]) -> FourdgenError:
    return FourdgenError(f"{said}: no such section{did_you_mean(section, configs)}", f"sections: {', '.join(configs)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def types_of(config: type) -> dict[str, Any]:
    """Field name -> annotation, in the order of the dataclass."""
    hints = get_type_hints(config)
    return {f.name: hints[f.name] for f in fields(config)}


def differences(config: Any) -> dict[str, Any]:
    """What of a config differs from its defaults: a run can say so."""
    changed = {}
    for f in fields(config):
        default = (
            f.default if f.default is not MISSING else f.default_factory() if callable(f.default_factory) else None
        )
        if getattr(config, f.name) != default:
            changed[f.name] = getattr(config, f.name)
    return changed


# --------------------------------------------------------------------------------------------------------------
# Values. Fields may be bool, int, float, str, Path, Literal[...], tuple[...] of these, and unions of these with None;
# dict[str, Any] is a table of whatever JSON holds, too, which somebody else will check; dict[str, T] is one value of T
# for each clip by name, `a=1,b=2` as text, and stands beside a plain T for all of them (see `of_clip`).


def of_clip(value: Any, name: str, default: Any = None) -> Any:
    """A setting that may have one value for each clip, for one of them; `default` where it has none for it."""
    return value.get(name, default) if isinstance(value, Mapping) else value


def said_of_clips(value: Any) -> list[Any]:
    """Every value of a setting that may have one for each clip."""
    return list(value.values()) if isinstance(value, Mapping) else [value]


def check_clips(values: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raises FourdgenError where one of `values` (by what they are called) names a clip that is not there."""
    errors = [
        FourdgenError(f"{said}: no clip is called '{name}'{did_you_mean(name, names)}", f"choose of {', '.join(names)}")
        for said, value in values.items()
        if isinstance(value, Mapping)
        for name in value
        if name not in names
    ]
    if errors:
        raise all_at_once(errors)


def by_clip(text: str) -> dict[str, str]:
    """`a=1,b=2` or `a=1;b=2` as a table; values may have commas, `a=1,2,3,4,b=5,6,7,8`. Raises ValueError."""
    end = r"\s*(?:;\s*|$|,\s*(?=[^,;=]+=))"
    found = list(re.finditer(rf"([^=;]+?)\s*=\s*([^=;]+?){end}", text.strip()))
    if not found or "".join(match[0] for match in found) != text.strip():
        raise ValueError("not one value for each clip")
    return {match[1].strip(): match[2].strip() for match in found}


def describe(hint: Any) -> str:
    """What a person is told to give."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin in (Union, types.UnionType):
        return ", or ".join(describe(arg) for arg in args)
    if origin is tuple and args[-1:] == (Ellipsis,):
        return f"{_SEVERAL[args[0]]} separated by commas"
    if origin is tuple:
        return f"{len(args)} {_SEVERAL[args[0]]} separated by commas"
    if origin is dict:
        return "a table such as {name = 1}" if args[1] is Any else "one for each clip as in CLIP=...,CLIP=..."
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    return "none" if hint is type(None) else words[hint]


_SEVERAL = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths", bool: "true or false"}


def from_toml(value: Any, hint: Any, name: str) -> Any:
    """A TOML value (or a Python value of the same kinds) as what the annotation `hint` says. Raises FourdgenError."""
    try:
        return _convert(value, hint)
    except ValueError as error:
        raise FourdgenError(f"{name} = {_shown(value)}: expected {describe(hint)}") from error


def from_text(text: str, hint: Any, name: str) -> Any:
    """The text after `--set section.key=` as what the annotation `hint` says. Raises FourdgenError."""
    try:
        return _parse(text, hint)
    except ValueError as error:
        raise FourdgenError(f"{name} = {text}: expected {describe(hint)}") from error


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _convert(value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if any(value == arg and type(value) is type(arg) for arg in args):
            return value
    elif origin in (Union, types.UnionType):
        if type(None) in args and (value is None or value == "none"):  # TOML has no null
            return None
        for arg in args:
            try:
                return _convert(value, arg)
            except ValueError:
                continue
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[-1:] == (Ellipsis,) else list(args)
        if len(kinds) == len(value):
            return tuple(_convert(item, kind) for item, kind in zip(value, kinds))
    elif origin is dict and args[1] is not Any and isinstance(value, dict | str):
        return _parse(value, hint) if isinstance(value, str) else {k: _convert(v, args[1]) for k, v in value.items()}
    elif origin is dict and isinstance(value, dict) and _is_json(value):
        return value
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint in (bool, int, str) and type(value) is hint:
        return value
    raise ValueError(f"not {describe(hint)}")


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    return all(map(_is_json, value)) if isinstance(value, list) else isinstance(value, str | bool | int | float)


def _parse(text: str, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        for arg in args:
            if text == str(arg):
                return arg
    elif origin in (Union, types.UnionType):
        if type(None) in args and text == "none":
            return None
        for arg in args:
            if arg is not type(None):
                try:
                    return _parse(text, arg)
                except ValueError:
                    continue
    elif origin is tuple:
        inner = text.strip("[]() ")
        items = [item.strip() for item in inner.split(",")] if inner else []
        kinds = [args[0]] * len(items) if args[-1:] == (Ellipsis,) else list(args)
        if len(kinds) == len(items):
            return tuple(_parse(item, kind) for item, kind in zip(items, kinds))
    elif origin is dict and args[1] is not Any:
        return {name: _parse(value, args[1]) for name, value in by_clip(text).items()}
    elif origin is dict:
        return _convert(tomllib.loads(f"table = {text}")["table"], hint)  # raises a ValueError
    elif hint is bool and text in ("true", "false"):
        return text == "true"
    elif hint is int or hint is float:
        number = hint(text)  # raises ValueError
        if math.isfinite(number):
            return number
    elif hint is str:
        return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text
    elif hint is Path:
        return Path(text)
    raise ValueError(f"not {describe(hint)}")
