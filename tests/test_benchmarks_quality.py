"""benchmarks/quality.py: what it would run, what can be left out, what is compared, and how figures become a table."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from fourdgen import config, planning
from tests.benchmark import FOLDER, script


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    return script("quality")


def figures(psnr: float, track: float | None = None) -> dict:
    return {"psnr": psnr, "track": {"all": track}, "cpu_seconds": 40.0}


def off(quality: ModuleType, *names: str, recipe: str = "fast") -> list[tuple[str, ...]]:
    return [quality.ablation(name, recipe) for name in names]


def test_an_ingredient_is_switched_off_by_its_setting(quality: ModuleType) -> None:
    assert off(quality, "train.normal", "train.tree", "train.rebuild_at") == [
        ("train.normal=0.0",), ("train.tree=false",), ("train.rebuild_at=[]",)
    ]  # fmt: skip
    assert off(quality, "sampling", "sample.mode") == [("sample.mode=uniform",)] * 2
    assert off(quality, "train.starts", "regenerate.rounds", recipe="quality") == [
        ("train.starts=1",), ("regenerate.rounds=0",)
    ]  # fmt: skip
    assert off(quality, "levels") == [
        ("train.levels=[160.0]", "train.steps=[13000]", "train.progress=[1.0]", "train.growth=[1.0]")
    ]
    assert off(quality, "train.needle,train.tree") == [("train.needle=0.0", "train.tree=false")]
    assert off(quality, "second-clip", "second-clip,train.normal") == [(), ("train.normal=0.0",)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train.nromal", "nor a setting such as"),
        ("normal", "nor a setting such as"),
        ("train", "nor a setting such as"),
        ("train.bones", "no off: train.bones = 0: so many bones cannot be trained"),
        ("train.needle_bound", "no off"),
        ("train.surfels_per_pixel", "no off"),
        ("train.max_surfels", "0 means as many surfels"),
        ("align.effort", "no off"),
        ("ingest.size", "no off"),  # 0 is a size of its own
        ("train.starts", "is off with recipe fast"),
        ("regenerate.rounds", "is off with recipe fast"),
        ("regenerate.filtering", "nothing is regenerated"),
        ("train.take_up", "nothing is regenerated"),
        ("levels,train.growth", "differ in length"),
    ],
)
def test_what_cannot_be_left_out_is_refused(quality: ModuleType, name: str, expected: str) -> None:
    with pytest.raises(SystemExit) as refused:
        quality.ablation(name)
    assert expected in str(refused.value.code) and (name in str(refused.value.code) or "," in name)


@pytest.mark.parametrize("recipe", config.recipe_names())
def test_every_setting_is_left_out_or_refused(quality: ModuleType, recipe: str, tmp_path: Path) -> None:
    """What is left out is a plan that `reconstruct` takes, and another one than with it."""
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((64, 64, 3), 100 * number, np.uint8))
    output = tmp_path.parent / f"{recipe}.ply"

    def planned(*settings: str) -> list:
        request = planning.Request((tmp_path,), output, pipeline=recipe, settings=settings, device="cpu")
        return [row.config for row in planning.plan(request).rows]

    full, can = planned(), set()
    for section in config.load_recipe(recipe).stages:
        for key in config.types_of(planning.stage_of(section).config):
            with contextlib.suppress(SystemExit):
                without = quality.ablation(f"{section}.{key}", recipe)
                assert planned(*without) != full, without
                can.add(f"{section}.{key}")
    train = {"tree", "rebuild_at", "normal", "normal_late", "needle", "rigidity", "smoothness", "mask", "ssim",
             "motion", "growth", "levels", "pose_turning", "pose_travel", "pose_prior"}  # fmt: skip
    assert {f"train.{name}" for name in train} | {"sample.mode", "root_pose.focal"} <= can
    assert (recipe == "quality") == ("regenerate.rounds" in can)
    assert not can & {"train.bones", "train.steps", "align.effort", "ingest.frames", "regenerate.size"}


def test_every_seed_scene_and_track_is_run_with_and_without(quality: ModuleType) -> None:
    runs = quality.plan(["fox", "varied/wolf"], ["known", "one"], [0, 1], ["train.normal", "second-clip"])
    assert len(runs) == 2 * 2 * 2 * 2 + 2 * 2  # the second clip is there on track known only
    assert len({run.name for run in runs}) == len(runs)
    with pytest.raises(SystemExit, match="only track known"):
        quality.plan(["fox"], ["one"], [0], ["second-clip"])
    assert not any("/" in run.name or " " in run.name for run in runs)


def test_tracks_see_what_they_may(quality: ModuleType) -> None:
    bench = Path("/bench")
    given = {track: " ".join(quality.inputs_of(quality.Run("fox", track, "-", 0), bench)) for track in quality.TRACKS}
    assert given["known"] == "/bench/fox/rgba/a /bench/fox/rgba/b --cameras /bench/fox/transforms.json"
    assert given["alone"] == "/bench/fox/rgba/a --cameras /bench/fox/transforms.json"
    assert given["found"] == "/bench/fox/clips/a.mp4 /bench/fox/clips/b.mp4 --cameras /bench/fox/transforms.json"
    assert given["unknown"] == "/bench/fox/clips/a.mp4 /bench/fox/clips/b.mp4"
    assert given["one"] == "/bench/fox/clips/a.mp4"
    assert given["between"] == "/bench/fox/clips/a.mp4 --set sample.every=4"
    without = quality.plan(["fox"], ["known"], [0], ["second-clip", "second-clip,train.normal"])[1:]
    for run in without:
        assert " ".join(quality.inputs_of(run, bench)) == given["alone"]
    assert [run.settings for run in without] == [(), ("train.normal=0.0",)]


def test_means_noise_and_changes(quality: ModuleType) -> None:
    def run(scene: str, seed: int):
        return quality.Run(scene, "known", "-", seed)

    results = {
        run("fox", 0): figures(26.0, 0.5), run("fox", 1): figures(28.0, 0.7),
        run("knight", 0): figures(22.0), run("knight", 1): figures(22.0),
    }  # fmt: skip
    rows = quality.means(results)
    assert rows["fox known -"]["PSNR"] == 27.0
    assert rows["fox known -"]["track"] == pytest.approx(0.6)
    assert rows["mean known -"]["PSNR"] == 24.5
    assert "track" not in rows["mean known -"]  # the knight has none: a mean over fewer scenes would mislead
    assert quality.noise(results)["PSNR"] == pytest.approx(1.0)  # sqrt((1 + 1 + 0 + 0) / 2)
    last = {"fox known -": {"PSNR": 26.5, "track": 0.7}}
    changes = quality.differences(rows, last)
    assert set(changes) == {"fox known -"} and changes["fox known -"]["PSNR"] == 0.5
    text = quality.printed(rows, quality.noise(results), changes)
    assert "27.00 (+0.50)" in text
    assert "60% (-10%)" in text
    assert "noise of one run" in text


def recorded(folder: Path, *entries: dict) -> Path:
    path = folder / "record.json"
    path.write_text(json.dumps(entries))
    return path


def entry(rows: dict[str, float], recipe: str = "fast", settings: tuple[str, ...] = (), seeds: str = "0,1") -> dict:
    """A recording as it was before rows had seeds of their own. rows: PSNR by row."""
    asked = {"pipeline": recipe, "set": list(settings), "seeds": seeds}
    return {"asked": asked, "rows": {row: {"PSNR": psnr} for row, psnr in rows.items()}}


BOTH = (0, 1)


def test_the_latest_recording_of_a_row_counts(quality: ModuleType, tmp_path: Path) -> None:
    rows = {"fox known -": BOTH, "knight known -": BOTH}
    assert quality.last_recorded(tmp_path / "record.json", "fast", [], rows) == {}
    first = {"fox known -": 26.0, "knight known -": 22.0, "mean known -": 24.0, "shiba known -": 10.0}
    record = recorded(tmp_path, entry(first), entry({"fox known -": 27.0}))
    last = quality.last_recorded(record, "fast", [], rows)
    assert last["fox known -"] == {"PSNR": 27.0} and last["knight known -"] == {"PSNR": 22.0}
    assert last["mean known -"] == {"PSNR": 24.5}
    assert "shiba known -" not in last


def test_a_mean_is_compared_over_its_own_scenes(quality: ModuleType, tmp_path: Path) -> None:
    six = {"fox known -": 26.0, "knight known -": 22.0, "robot known -": 33.0, "mean known -": 27.0}
    record = recorded(tmp_path, entry(six))
    seeds = dict.fromkeys(("fox known -", "knight known -"), BOTH)
    rows = {row: {"PSNR": 25.0} for row in (*seeds, "mean known -")}
    last = quality.last_recorded(record, "fast", [], seeds)
    assert last["mean known -"] == {"PSNR": 24.0}
    assert "25.00 (+1.00)" in quality.printed(rows, {}, quality.differences(rows, last)).splitlines()[-1]
    seeds["wolf known -"] = BOTH
    assert "mean known -" not in quality.last_recorded(record, "fast", [], seeds)  # the wolf was never recorded


def test_other_recipes_and_settings_are_other_rows(quality: ModuleType, tmp_path: Path) -> None:
    rows, steps = {"fox known -": BOTH}, ("train.steps=[60]", "train.bones=3")
    record = recorded(
        tmp_path,
        entry({"fox known -": 26.0}),
        entry({"fox known -": 28.0}, "quality"),
        entry({"fox known -": 15.0}, settings=steps),
    )
    for recipe, settings, psnr in (("fast", [], 26.0), ("quality", [], 28.0), ("fast", steps[::-1], 15.0)):
        assert quality.last_recorded(record, recipe, settings, rows) == {"fox known -": {"PSNR": psnr}}
    assert quality.last_recorded(record, "max", [], rows) == {}


def test_other_seeds_are_other_rows(quality: ModuleType, tmp_path: Path) -> None:
    """A mean of two seeds says nothing about one of them; nor does a row whose second seed failed about both."""
    both, one = entry({"fox known -": 26.0, "knight known -": 22.0}), entry({"fox known -": 30.0}, seeds="0")
    half = {
        **entry({"fox known -": 20.0, "knight known -": 21.0}),
        "seeds": {"fox known -": [0], "knight known -": [0, 1]},
    }
    record = recorded(tmp_path, both, one, half)

    def psnr(row: str, *seeds: int) -> float | None:
        return quality.last_recorded(record, "fast", [], {row: seeds}).get(row, {}).get("PSNR")

    assert psnr("fox known -", 0, 1) == 26.0
    assert psnr("fox known -", 0) == 20.0
    assert psnr("fox known -", 1) is None
    assert psnr("knight known -", 1, 0) == 21.0


def test_the_benchmark_says_what_it_compares_with(
    quality: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Differences are in the JSON as in the table; a failed seed makes another row; new recordings can be read."""
    record = recorded(tmp_path, entry({"fox known -": 26.0}))
    failing: set[int] = set()

    def result_of(run: object, given: object, code: str) -> dict:
        if run.seed in failing:
            raise RuntimeError("exit code 2")
        return figures(25.0 + run.seed)

    def ran(*arguments: str) -> str:
        asked = ["quality", "--bench", str(tmp_path), "--out", str(tmp_path / "out"), "--scenes", "fox", *arguments]
        monkeypatch.setattr(sys, "argv", [*asked, "--record", str(record)])
        with pytest.raises(SystemExit) as exit:
            quality.main()
        assert exit.value.code == (1 if failing else 0)
        return capsys.readouterr().out

    monkeypatch.setattr(quality, "result_of", result_of)
    answer = json.loads(ran("--json"))
    assert answer["differences"] == {"fox known -": {"PSNR": -0.5}} and answer["not_compared"] == ""
    assert "25.50 (+0.00)" in ran()
    one = ran("--seeds", "0")
    assert "25.00 " in one and "(" not in one.splitlines()[1] and "nothing to compare with" in one
    failing.add(1)
    assert "25.00 (+0.00)" in ran()  # seed 0 alone, as recorded last
    failing.clear()
    assert "25.50 (+0.00)" in ran()  # and not the one with the failed seed
    assert "nothing to compare with" in json.loads(ran("--json", "--set", "train.bones=3"))["not_compared"]


def test_what_is_recorded_can_be_read(quality: ModuleType) -> None:
    rows = {f"{scene} known -": BOTH for scene in quality.SCENES}
    last = quality.last_recorded(FOLDER / "recorded" / "quality.json", "fast", [], rows)
    assert set(last) == {*rows, "mean known -"}
    assert last["mean known -"]["PSNR"] == pytest.approx(sum(last[row]["PSNR"] for row in rows) / 6)


def test_a_recipe_belongs_to_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of a recipe that has been edited since are not taken for today's."""
    digest = script("digest")
    (tmp_path / "fast.toml").write_text("train.steps = [1]")
    monkeypatch.setattr(digest, "recipe_folder", lambda: tmp_path)
    before = digest.code_digest()
    assert digest.code_digest() == before
    (tmp_path / "fast.toml").write_text("train.steps = [2]")
    assert digest.code_digest() != before


def test_a_failing_command_is_told_and_a_good_one_timed(quality: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        quality.timed([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")
    assert 0 < quality.timed([sys.executable, "-c", "sum(range(10**6))"], tmp_path / "log") < 20
