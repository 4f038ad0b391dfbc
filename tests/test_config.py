"""Recipes and settings: what they become, and the exact words of every error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from fourdgen import config
from fourdgen.report import FourdgenError


@dataclass(frozen=True)
class Cut:
    size: int = 256
    box: tuple[int, int, int, int] | None = None
    mask: Literal["auto", "plain", "none"] = "auto"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size = {self.size}: expected at least 0")


@dataclass(frozen=True)
class Fit:
    steps: tuple[int, ...] = (10, 20)
    rate: float = 1e-3
    name: str = "fit"
    free: bool = False
    weights: Path | None = None
    more: dict[str, Any] = field(default_factory=dict)
    each: float | dict[str, float] = 1.0
    boxes: tuple[int, int] | dict[str, tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError("the rate has to be positive")


CONFIGS = {"cut": Cut, "fit": Fit}


def recipe(**settings: dict[str, object]) -> config.Recipe:
    return config.Recipe("test", Path("test.toml"), "", ("cut", "fit"), settings)


def message(*overrides: str, **settings: dict[str, object]) -> str:
    with pytest.raises(FourdgenError) as caught:
        config.resolve(recipe(**settings), CONFIGS, overrides)
    return f"{caught.value.message} | {caught.value.hint}"


def test_defaults_then_recipe_then_set() -> None:
    made = config.resolve(recipe(cut={"size": 128}, fit={"rate": 1}), CONFIGS)
    assert made == {"cut": Cut(size=128), "fit": Fit(rate=1.0)}
    made = config.resolve(recipe(cut={"size": 128}), CONFIGS, ["cut.size=64", "fit.name=x", "cut.size=32"])
    assert (made["cut"].size, made["fit"].name) == (32, "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cut.box=1,2,3,4", Cut(box=(1, 2, 3, 4))),
        ("cut.box=none", Cut()),
        ("cut.mask=plain", Cut(mask="plain")),
        ("cut.mask=none", Cut(mask="none")),
        ("fit.steps=5", Fit(steps=(5,))),
        ("fit.steps=[5, 6]", Fit(steps=(5, 6))),
        ("fit.steps=", Fit(steps=())),
        ("fit.rate=1e-2", Fit(rate=0.01)),
        ("fit.name=7", Fit(name="7")),
        ("fit.name=a=b", Fit(name="a=b")),
        ("fit.free=true", Fit(free=True)),
        ("fit.each=2", Fit(each=2.0)),
        ("fit.each=a=1,b c=2", Fit(each={"a": 1.0, "b c": 2.0})),
        ("fit.each=a=1; b=2", Fit(each={"a": 1.0, "b": 2.0})),
        ("fit.boxes=a=1,2,b=3,4", Fit(boxes={"a": (1, 2), "b": (3, 4)})),
        ("fit.weights=w/x.onnx", Fit(weights=Path("w/x.onnx"))),
        ('fit.more={url = "a=b", tries = 3, to = [1.5]}', Fit(more={"url": "a=b", "tries": 3, "to": [1.5]})),
    ],
)
def test_set_parses_by_the_annotation(text: str, expected: Cut | Fit) -> None:
    made = config.resolve(recipe(), CONFIGS, [text])
    assert made[text.split(".")[0]] == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["fit.stpes=5"],
            "fit.stpes: no such setting (did you mean steps?) "
            "| settings of fit: steps, rate, name, free, weights, more, each, boxes",
        ),
        (
            ["fit.size=5"],
            "fit.size: no such setting (did you mean cut.size?) "
            "| settings of fit: steps, rate, name, free, weights, more, each, boxes",
        ),
        (["ftt.steps=5"], "ftt.steps: no such section (did you mean fit?) | sections: cut, fit"),
        (["fit.steps"], "--set fit.steps: expected section.key=value | for example --set train.steps=500"),
        (["steps=5"], "--set steps=5: expected section.key=value | for example --set train.steps=500"),
        (["fit.rate=fast"], "fit.rate = fast: expected a number | "),
        (["fit.rate=nan"], "fit.rate = nan: expected a number | "),
        (["fit.rate=-1"], "fit: the rate has to be positive | "),
        (["cut.size=-3"], "cut.size = -3: expected at least 0 | "),
        (["fit.steps=1,x"], "fit.steps = 1,x: expected whole numbers separated by commas | "),
        (["cut.size=1.5"], "cut.size = 1.5: expected a whole number | "),
        (["cut.box=1,2,3"], "cut.box = 1,2,3: expected 4 whole numbers separated by commas, or none | "),
        (["cut.mask=blue"], "cut.mask = blue: expected one of auto, plain, none | "),
        (
            ["fit.boxes=a=1,2,b=3"],
            "fit.boxes = a=1,2,b=3: expected 2 whole numbers separated by commas, or one for each clip as in "
            "CLIP=...,CLIP=..., or none | ",
        ),
        (["fit.free=yes"], "fit.free = yes: expected true or false | "),
        (["fit.more=3"], "fit.more = 3: expected a table such as {name = 1} | "),
        (["fit.more={a = }"], "fit.more = {a = }: expected a table such as {name = 1} | "),
        (["fit.more={a = 2020-01-01}"], "fit.more = {a = 2020-01-01}: expected a table such as {name = 1} | "),
    ],
)
def test_messages_of_set(overrides: list[str], expected: str) -> None:
    assert message(*overrides) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"cut": {"siez": 1}}, "cut.siez: no such setting (did you mean size?) | settings of cut: size, box, mask"),
        ({"cot": {"size": 1}}, "cot: no such section (did you mean cut?) | sections: cut, fit"),
        ({"cut": {"size": "big"}}, 'cut.size = "big": expected a whole number | '),
        ({"cut": {"size": True}}, "cut.size = true: expected a whole number | "),
        ({"fit": {"free": 1}}, "fit.free = 1: expected true or false | "),
        ({"fit": {"steps": 5}}, "fit.steps = 5: expected whole numbers separated by commas | "),
    ],
)
def test_messages_of_a_recipe(settings: dict[str, dict[str, object]], expected: str) -> None:
    assert message(**settings) == expected


def test_all_errors_at_once() -> None:
    said = message("fit.stpes=5", "cut.size=x", cot={"a": 1})
    assert said.splitlines()[0] == "3 things are wrong:"
    assert [line[:8] for line in said.splitlines()[1:]] == ["  - cot:", "  - fit.", "  - cut."]


def test_differences_from_the_defaults() -> None:
    assert config.differences(Fit(rate=0.5, free=True)) == {"rate": 0.5, "free": True}


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_extends_merges_section_by_section(tmp_path: Path) -> None:
    write(tmp_path, "base.toml", 'title = "base"\nstages = ["cut"]\n[cut]\nsize = 1\nmask = "plain"\n')
    child = write(tmp_path, "child.toml", 'extends = "./base.toml"\n[cut]\nsize = 2\n[fit]\nrate = 3\n')
    read = config.load_recipe(child)
    assert (read.name, read.title, read.stages) == ("child", "base", ("cut",))
    assert read.settings == {"cut": {"size": 2, "mask": "plain"}, "fit": {"rate": 3}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('extends = "./r.toml"', "extends itself: r.toml -> r.toml"),
        ("title = ", "not a recipe: Invalid value (at end of document)"),
        ('title = "x"', "a recipe needs a list of stages"),
        ('stages = ["cut"]\nsize = 5', "size: settings belong in a section"),
        ('extends = "fats"\n', "fats: no such recipe (did you mean fast?)"),
    ],
)
def test_messages_of_recipe_files(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(FourdgenError) as caught:
        config.load_recipe(write(tmp_path, "r.toml", text))
    assert caught.value.message.removeprefix(f"{(tmp_path / 'r.toml').resolve()}: ") == expected


def test_how_long_a_recipe_takes_is_its_own_word(tmp_path: Path) -> None:
    write(tmp_path, "base.toml", 'time = "an hour"\nstages = ["cut"]\n')
    assert config.load_recipe(str(tmp_path / "base.toml")).time == "an hour"
    assert config.load_recipe(write(tmp_path, "child.toml", 'extends = "./base.toml"\n')).time == ""


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(FourdgenError) as caught:
        config.load_recipe("qualty")
    assert caught.value.message == "qualty: no such recipe (did you mean quality?)"
    assert caught.value.hint == f"recipes: {', '.join(config.recipe_names())}; or the path of a .toml file"


def test_a_recipe_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FourdgenError, match="not a text file"):
        config.load_recipe(str(tmp_path / "r.toml"))
