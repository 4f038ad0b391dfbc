"""Ingredients of a recipe, and what it is to be without one: the names after quality.py's --ablate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fourdgen import config, planning
from fourdgen.report import FourdgenError
from fourdgen.workspace import Job

SECOND_CLIP = "second-clip"  # no setting: the clip is not given
SHORT = {"sampling": "sample.mode", "levels": "train.levels"}
# What a setting is without its ingredient, where that is neither 0 nor false nor an empty list.
OFF = {"sample.mode": "uniform", "train.starts": 1, "regenerate.rounds": 0}
# Settings that may be 0, which does not mean that something is left out.
NOT_AT_ZERO = {
    "train.max_surfels": "0 means as many surfels as the subject's pixels ask for",
    "train.surfels_per_pixel": "without surfels there is no asset",
}
ROUNDS_ONLY = ("train.take_up",)  # what rounds of regeneration alone use, beside section regenerate


def ablation(name: str, recipe: str = "fast", settings: Sequence[str] = ()) -> tuple[str, ...]:
    """The settings that switch an ingredient of a recipe off: none for the second clip, which is a matter of inputs.

    name: `sampling`, `levels`, `second-clip`, or a stage's setting: a yes or no becomes no, a weight of the training 0,
    its times none; starts become one. Without levels all steps go to the finest; without train.growth every level may
    hold all surfels. Commas join several. settings: --set texts of all runs.

    Raises SystemExit with a sentence: no such ingredient, one that cannot be left out, one that is not in the recipe.
    """
    if "," in name:
        several = tuple(setting for part in name.split(",") for setting in ablation(part, recipe, settings))
        settled(recipe, (*settings, *several))  # levels and train.growth do not go together
        return several
    if name == SECOND_CLIP:
        return ()
    try:
        return _off(SHORT.get(name, name), settled(recipe, settings), recipe, settings)
    except ValueError as error:
        raise SystemExit(f"--ablate {name}: {error}") from None


def settled(recipe: str, settings: Sequence[str]) -> dict[str, Any]:
    """The configs of all stages, after all checks that need no input. Raises SystemExit with what a person did wrong,
    as `reconstruct` would say it."""
    try:
        return _settled(recipe, settings)
    except FourdgenError as error:
        raise SystemExit(f"{error.message}{f' ({error.hint})' if error.hint else ''}") from None


def _settled(recipe: str, settings: Sequence[str]) -> dict[str, Any]:
    loaded = config.load_recipe(recipe)
    stages = planning.stages_of(loaded)
    configs = config.resolve(loaded, {stage.name: stage.config for stage in stages}, settings)
    nothing = Job((), Path("scene.ply"), Path("scene.run"))
    for stage in stages:
        if stage.check is not None and stage.name != "ingest":  # ingest's asks for the clips
            stage.check(nothing, configs[stage.name])
    return configs


def _off(name: str, configs: Mapping[str, Any], recipe: str, settings: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError with the end of a sentence."""
    section, _, key = name.partition(".")
    if section not in planning.STAGES or key not in config.types_of(planning.stage_of(section).config):
        short = ", ".join((*SHORT, SECOND_CLIP))
        raise ValueError(f"not one of {short}, nor a setting such as train.normal")
    if section not in configs:
        raise ValueError(f"recipe {recipe} has no stage {section}")
    if (section == "regenerate" or name in ROUNDS_ONLY) and name not in OFF and not configs["regenerate"].rounds:
        raise ValueError("nothing is regenerated with this recipe, so leaving it out would change nothing")
    if name in NOT_AT_ZERO:
        raise ValueError(f"it has no off: {NOT_AT_ZERO[name]}")
    value = getattr(configs[section], key)
    off = _texts(name, value, configs)
    try:
        without = _settled(recipe, (*settings, *off))
    except FourdgenError as error:
        raise ValueError(f"it has no off: {error.message}") from None
    if without == configs:
        raise ValueError(f"it is off with recipe {recipe} as it is, so leaving it out would change nothing")
    return off


def _texts(name: str, value: Any, configs: Mapping[str, Any]) -> tuple[str, ...]:
    """--set texts of a setting's off. Raises ValueError where it has none."""
    if name == "train.levels":
        train = configs["train"]
        last = {"levels": train.levels[-1], "steps": sum(train.steps), "progress": 1.0, "growth": 1.0}
        return tuple(f"train.{key}=[{number}]" for key, number in last.items())
    if name == "train.growth":
        return (f"{name}={[1.0] * len(value)}",)
    if name in OFF:
        off = OFF[name]
        return (f"{name}={off if isinstance(off, str) else json.dumps(off)}",)
    # Of the other stages a number is a size or a count, and 0 of it means something else or nothing.
    if isinstance(value, bool) or (name.startswith("train.") and isinstance(value, int | float | tuple)):
        return (f"{name}={json.dumps(type(value)())}",)
    raise ValueError("it has no off: it is no weight, no yes or no")
