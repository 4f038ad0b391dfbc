"""benchmarks/: what linger.py and regenerate.py would run, what is refused, and how figures become a table."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fourdgen.geometry.transforms import Sim3, so3_exp
from fourdgen.scene import files
from tests.benchmark import FOLDER, script
from tests.toy import toy_scene, write_filmed, write_truth


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
