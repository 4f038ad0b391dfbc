"""Every shipped recipe parses and gives a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fourdgen import account, config, planning
from fourdgen.report import FourdgenError

NAMES = config.recipe_names()


def test_the_recipes_that_the_command_line_promises_are_there() -> None:
    assert {"fast", "quality", "max"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_resolves_and_plans(name: str) -> None:
    recipe = config.load_recipe(name)
    assert recipe.title
    stages = planning.stages_of(recipe)
    made = config.resolve(recipe, {stage.name: stage.config for stage in stages})
    assert [stage.name for stage in stages] == list(recipe.stages)
    for stage in stages:
        assert isinstance(made[stage.name], stage.config)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_and_how_long_it_takes(name: str) -> None:
    text = (config.recipe_folder() / f"{name}.toml").read_text()
    assert text.startswith(f"# {name}: ")
    assert config.load_recipe(name).time


def test_every_setting_has_a_type_that_the_command_line_understands() -> None:
    for name in planning.STAGES:
        stage = planning.stage_of(name)
        for setting, hint in config.types_of(stage.config).items():
            assert config.describe(hint), f"{name}.{setting}"


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (["ingest", "trian"], "trian: no such stage (did you mean train?)"),
        (["ingest", "sample"], "needs root_pose before it"),
        (["ingest"], "the last stage has to be export"),
        (["ingest", "ingest", "align", "root_pose", "sample", "train", "export"], "ingest: stands twice"),
    ],
)
def test_a_list_of_stages_that_cannot_run(stages: list[str], expected: str) -> None:
    recipe = config.Recipe("r", Path("r.toml"), "", tuple(stages))
    with pytest.raises(FourdgenError) as caught:
        planning.stages_of(recipe)
    assert expected in caught.value.message


def test_the_plan_of_the_demo(tmp_path: Path) -> None:
    clips = sorted((Path(__file__).parents[1] / "assets" / "demo").glob("*.mp4"))
    request = planning.Request(tuple(clips), tmp_path / "scene.ply", pipeline="fast", device="cpu")
    planned = planning.plan(request)
    assert [row.state for row in planned.rows] == ["new"] * len(planned.rows)
    assert len({row.key for row in planned.rows}) == len(planned.rows)
    said = account.describe(planned)
    for row in planned.rows:
        assert row.folder.name in said
    # What the recipe says is shown, also where that is the default; so is what the command changes.
    assert "size=512" in said and "steps=[6000, 4600, 2400]" in said and "minutes" in said
    changed = replace(request, settings=("train.steps=[7,7,7]", "align.effort=0.5"))
    said = account.describe(planning.plan(changed))
    assert "steps=[7, 7, 7]" in said and "effort=0.5" in said and "side=" not in said
    rounds = account.describe(planning.plan(replace(request, settings=("regenerate.rounds=2",))))
    assert rounds.count("surfels_per_pixel=1.4") == 3  # a round trains by the same settings, so they are shown, too
    assert not list(tmp_path.iterdir())
    other = planning.plan(planning.Request(tuple(clips), tmp_path / "scene.ply", pipeline="fast", device="cpu", seed=1))
    assert {row.key for row in other.rows}.isdisjoint({row.key for row in planned.rows})


def test_a_file_that_the_system_refuses_to_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made here."""

    def refuse(name: str) -> None:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(planning.settings, "load_recipe", refuse)
    request = planning.Request((tmp_path / "none.mp4",), tmp_path / "scene.ply", pipeline="r.toml", device="cpu")
    with pytest.raises(FourdgenError) as caught:
        planning.plan(request)
    assert "r.toml: cannot be read: permission denied" in caught.value.message
    assert "none.mp4: no such file or folder" in caught.value.message
