"""benchmarks/: what quality.py, linger.py, poses.py and regenerate.py would run, and how figures become a table."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fourdgen.geometry.transforms import Sim3, so3_exp
from fourdgen.scene import files
from tests.toy import toy_scene, write_filmed, write_truth

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    return script("quality")


def figures(psnr: float, track: float | None = None) -> dict:
    return {"psnr": psnr, "track": {"all": track}, "cpu_seconds": 40.0}


def test_an_ingredient_is_switched_off_by_its_setting(quality: ModuleType) -> None:
    assert quality.ablation("train.normal") == ("train.normal=0.0",)
    assert quality.ablation("train.bones") == ("train.bones=0",)
    assert quality.ablation("train.tree") == ("train.tree=false",)
    assert quality.ablation("train.rebuild_at") == ("train.rebuild_at=[]",)
    assert quality.ablation("sampling") == ("sample.mode=uniform",)
    assert quality.ablation("train.needle,train.tree") == ("train.needle=0.0", "train.tree=false")
    for wrong in ("train.nromal", "normal", "train"):
        with pytest.raises(SystemExit, match=wrong):
            quality.ablation(wrong)


def test_every_seed_scene_and_track_is_run_with_and_without(quality: ModuleType) -> None:
    runs = quality.plan(["fox", "varied/wolf"], ["known", "one"], [0, 1], ["train.normal", "second-clip"])
    assert len(runs) == 2 * 2 * 2 * 2 + 2 * 2  # the second clip is there on track known only
    assert len({run.name for run in runs}) == len(runs)
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
    without = quality.Run("fox", "known", "second-clip", 0)
    assert " ".join(quality.inputs_of(without, bench)) == given["alone"]


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
    text = quality.printed(rows, quality.noise(results), {"fox known -": {"PSNR": 26.5, "track": 0.7}})
    assert "27.00 (+0.50)" in text
    assert "60% (-10%)" in text
    assert "noise of one run" in text


def recorded(folder: Path, *entries: tuple[str, list[str], dict[str, float]]) -> Path:
    """A record of (recipe, settings, PSNR by row)."""
    path = folder / "record.json"
    content = [
        {"asked": {"pipeline": recipe, "set": settings}, "rows": {row: {"PSNR": psnr} for row, psnr in rows.items()}}
        for recipe, settings, rows in entries
    ]
    path.write_text(json.dumps(content))
    return path


def test_the_latest_recording_of_a_row_counts(quality: ModuleType, tmp_path: Path) -> None:
    rows = {"fox known -": {}, "knight known -": {}, "mean known -": {}}
    assert quality.last_recorded(tmp_path / "record.json", "fast", [], rows) == {}
    first = {"fox known -": 26.0, "knight known -": 22.0, "mean known -": 24.0, "shiba known -": 10.0}
    record = recorded(tmp_path, ("fast", [], first), ("fast", [], {"fox known -": 27.0}))
    last = quality.last_recorded(record, "fast", [], rows)
    assert last["fox known -"] == {"PSNR": 27.0} and last["knight known -"] == {"PSNR": 22.0}
    assert "shiba known -" not in last


def test_a_mean_is_compared_over_its_own_scenes(quality: ModuleType, tmp_path: Path) -> None:
    six = {"fox known -": 26.0, "knight known -": 22.0, "robot known -": 33.0, "mean known -": 27.0}
    record = recorded(tmp_path, ("fast", [], six))
    rows = {row: {"PSNR": 25.0} for row in ("fox known -", "knight known -", "mean known -")}
    assert quality.last_recorded(record, "fast", [], rows)["mean known -"] == {"PSNR": 24.0}
    assert (
        "25.00 (+1.00)" in quality.printed(rows, {}, quality.last_recorded(record, "fast", [], rows)).splitlines()[-1]
    )
    rows["wolf known -"] = {"PSNR": 25.0}
    assert "mean known -" not in quality.last_recorded(record, "fast", [], rows)  # the wolf was never recorded


def test_other_recipes_and_settings_are_other_rows(quality: ModuleType, tmp_path: Path) -> None:
    rows = {"fox known -": {"PSNR": 25.0}}
    steps = ["train.steps=[60]", "train.bones=3"]
    record = recorded(
        tmp_path,
        ("fast", [], {"fox known -": 26.0}),
        ("quality", [], {"fox known -": 28.0}),
        ("fast", steps, {"fox known -": 15.0}),
    )
    for recipe, settings, psnr in (("fast", [], 26.0), ("quality", [], 28.0), ("fast", steps[::-1], 15.0)):
        assert quality.last_recorded(record, recipe, settings, rows) == {"fox known -": {"PSNR": psnr}}
    assert quality.last_recorded(record, "max", [], rows) == {}


def test_what_is_recorded_can_be_read(quality: ModuleType) -> None:
    rows = {f"{scene} known -": {} for scene in quality.SCENES}
    last = quality.last_recorded(FOLDER / "recorded" / "quality.json", "fast", [], rows | {"mean known -": {}})
    assert set(last) == {*rows, "mean known -"}
    assert last["mean known -"]["PSNR"] == pytest.approx(sum(last[row]["PSNR"] for row in rows) / 6)


def test_a_recipe_belongs_to_the_code(quality: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of a recipe that has been edited since are not taken for today's."""
    (tmp_path / "fast.toml").write_text("train.steps = [1]")
    monkeypatch.setattr(quality, "recipe_folder", lambda: tmp_path)
    before = quality.code_digest()
    assert quality.code_digest() == before
    (tmp_path / "fast.toml").write_text("train.steps = [2]")
    assert quality.code_digest() != before


def test_wrong_requests_are_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Not by a traceback: by an exit that fails and says why."""

    def refused(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, "--bench", str(tmp_path), *arguments])
        with pytest.raises(SystemExit) as exit:
            script(name).main()
        assert exit.value.code not in (0, None)
        return f"{exit.value.code} {capsys.readouterr().err}"

    assert "give whole numbers" in refused("quality", "--seeds", "x")
    assert "nope.ply" in refused("sheets", "--asset", str(tmp_path / "nope.ply"))
    files.write(tmp_path / "toy.ply", replace(toy_scene(), world_from_input=Sim3.identity()))
    toy = ("--asset", str(tmp_path / "toy.ply"), "--out", str(tmp_path))
    assert "nosuch: no held-out views" in refused("sheets", *toy, "--scene", "nosuch")
    assert "--worst" in refused("sheets", *toy, "--worst", "-1")
    assert "no scene has two finished runs" in refused("choice", "--runs", str(tmp_path))


def test_a_sheet_without_worst_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = replace(toy_scene(), world_from_input=Sim3.identity())
    files.write(tmp_path / "toy.ply", scene)
    write_truth(tmp_path, scene, Sim3.identity())
    asked = ["--bench", str(tmp_path.parent), "--scene", tmp_path.name, "--asset", str(tmp_path / "toy.ply")]
    monkeypatch.setattr(sys, "argv", ["sheets", *asked, "--out", str(tmp_path / "out"), "--worst", "0"])
    script("sheets").main()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{tmp_path.name}.png"]


def test_filmed_frames_are_drawn_by_the_assets_own_cameras(tmp_path: Path) -> None:
    """The choice between runs must not need a mapping to the truth's world, which assets with found cameras lack."""
    scene = toy_scene()
    world = Sim3(2.0, so3_exp(torch.tensor([0.5, -1.0, 2.0]).double()), torch.tensor([3.0, 0.0, 1.0]).double())
    write_truth(tmp_path, scene, world)
    for name, clip in scene.clips.items():
        (tmp_path / name).mkdir()
        for i in range(len(clip.seconds)):
            write_filmed(tmp_path / name / f"{i:04d}.png", scene, name, i, clip.cameras[i])
    choice = script("choice")
    assert choice.filmed(scene, tmp_path) > 40
    assert choice.filmed(replace(scene, world_from_input=world), tmp_path) > 40


def test_a_failing_command_is_told_and_a_good_one_timed(quality: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        quality.timed([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")
    assert 0 < quality.timed([sys.executable, "-c", "sum(range(10**6))"], tmp_path / "log") < 20


def test_a_lingering_camera_repeats_and_drops() -> None:
    assert script("linger").lingering(8, 3, 2, 2) == [0, 0, 1, 1, 2, 2, 3, 5, 7]


def test_figures_of_speed_stand_beside_their_bounds() -> None:
    bounds = script("peers/bounds")
    figures = dict.fromkeys((name for name, *_ in bounds.FIGURES if "prototype" not in name), 1.7)
    figures |= {"step_vs_raster_2t": 2.3, "floor_ms_1t": 0.7, "pairs": 1000, "peak_gflops_1t": 118.0, "build": "avx2"}
    figures |= {"torch": "2", "step_parts_ms_1t": {"step": 9.0}, "step_parts_ms_2t": {"step": 6.0}}
    rows = {line[:46].strip(): line[46:].split() for line in bounds.table(figures).splitlines()}
    assert rows["training step, 2 threads, times its drawing"] == ["2.30", "2.20", "1.75", "MISSED"]
    assert rows["speed-up by 2 threads"] == ["1.70", "1.60", "kept"]
    assert rows["speed-up by 2 threads, two pictures"] == ["1.70", "1.85", "MISSED"]
    assert rows["1 thread, times the arithmetic alone"] == ["1.70", "18.00", "12.00", "goal", "reached"]
    assert not any("prototype" in row for row in rows)


@pytest.fixture(scope="module")
def poses() -> ModuleType:
    return script("poses")


def test_poses_are_planned_in_the_order_of_their_worth_and_done_once(poses: ModuleType, tmp_path: Path) -> None:
    scene = tmp_path / "bench" / "ball"
    (scene / "clips").mkdir(parents=True)
    (scene / "truth").mkdir()
    frames = [{"file_path": f"{clip}.mp4", "clip": clip, "frame": i, "transform_matrix": [[1, 0, 0, 0], [0, 1, 0, 0],
               [0, 0, 1, 0], [0, 0, 0, 1]]} for clip in "ab" for i in range(3)]  # fmt: skip
    camera = {"fl_x": 50.0, "fl_y": 50.0, "cx": 16.0, "cy": 16.0, "w": 32, "h": 32}
    (scene / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))
    given = argparse.Namespace(
        scenes=None, clips=None, seeds="0,1", versions="as_filmed,eased", out=tmp_path / "out", effort=1.0,
        minutes=0.001, no_pairs=False, whole=True,
    )  # fmt: skip
    tasks = poses.plan(given, tmp_path / "bench")
    first = [(task["kind"], task.get("clip"), task.get("version")) for task in tasks[:6]]
    assert first == [("search", "a", "as_filmed"), ("search", "b", "as_filmed"), ("pair", None, None),
                     ("whole", None, None), ("search", "a", "eased"), ("search", "b", "eased")]  # fmt: skip
    assert [task["seed"] for task in tasks] == [0] * 6 + [1] * 6
    assert len({task["path"] for task in tasks}) == 12
    late = {**tasks[0], "until": 0.0}
    assert poses.work(late) is None  # out of time
    assert poses.work({**tasks[2], "until": float("inf")}) is None  # its searches are not there
    Path(late["path"]).parent.mkdir(parents=True)
    Path(late["path"]).write_text(json.dumps({"median": 3.5}))
    assert poses.work(late) == {"median": 3.5}


def test_wrong_solutions_count_in_every_round_right_ones_when_refined(poses: ModuleType) -> None:
    def row(stage: str, median: float, met: bool, alone: bool) -> dict:
        return {"stage": stage, "median": median, "met": {"accepted": met}, "alone": {"accepted": alone}}

    rows = [row("moved", 60, True, True), row("moved", 5, False, False), row("refined", 5, True, False),
            row("refined", 25, False, True)]  # fmt: skip
    called_still = {"still": True, "accepted": True, "median": 40.0, "labelled": []}  # a clip that turns
    counted = poses.acceptance([{"still": False, "accepted": True, "median": 5.0, "labelled": rows}, called_still])
    assert (counted["wrong"], counted["wrong_accepted"], counted["wrong_accepted_unbeaten"]) == (2, 1, 2)
    assert (counted["right"], counted["right_refused_unbeaten"]) == (1, 1)
    assert (counted["winners_right"], counted["winners_right_refused"], counted["winners_wrong_accepted"]) == (1, 0, 1)


def test_a_figure_of_regeneration_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that is there with the same settings is not measured again; other settings are other figures."""
    monkeypatch.syspath_prepend(str(FOLDER))  # for its stand-in generators
    regenerate = script("regenerate")
    calls = []

    def measure() -> dict[str, object]:
        calls.append(1)
        return {"psnr": 20.0 + len(calls)}

    given = argparse.Namespace(out=tmp_path, further=["--set", "train.bones=9"], unknown=False)
    first = regenerate.kept_cell(given, "fox", 0, "fill", measure)
    assert regenerate.kept_cell(given, "fox", 0, "fill", measure) == first and len(calls) == 1
    assert regenerate.kept_cell(given, "fox", 1, "fill", measure)["psnr"] == 22.0
    given.further = []
    assert regenerate.kept_cell(given, "fox", 0, "fill", measure)["psnr"] == 23.0


def test_gains_are_shares_of_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = {"psnr": 20.0, "filmed": 30.0, "confidence": {"auc": 0.9}}
    fill = {"psnr": 21.0, "filmed": 29.95, "low_filled": 0.7, "draws": 0.12}
    row = {"scene": "fox", "seed": 0, "before": before, "gap": {"psnr": 24.0}, "fill": fill}
    text = script("regenerate").summary([row])
    assert "seed 0 gap: +4.00 dB (fox +4.00)" in text
    assert "seed 0 fill: +1.00 dB (fox +1.00), 25% of the gap\n  filmed frames fox -0.05 dB" in text
    assert "low-confidence pixels from filmed frames: fox 70%\n  of the draws: fox 12%" in text
    assert text.endswith("AUC of confidence before a round: fox 0.900")
