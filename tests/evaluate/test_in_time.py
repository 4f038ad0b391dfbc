"""Flicker and the interpolation protocol: on errors and assets that are made to be known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.evaluate import evaluate
from fourdgen.evaluate.in_time import between, flicker
from fourdgen.evaluate.truth import View
from fourdgen.geometry.camera import intrinsics
from fourdgen.geometry.transforms import Sim3
from fourdgen.render import RenderOut
from fourdgen.scene import files
from fourdgen.scene.scene4d import Scene4D
from tests.toy import toy_scene, write_filmed, write_truth

SIZE = (8, 6)


def held_out(frames: list[int], turn: float = 0.0) -> list[View]:
    views = []
    for number, frame in enumerate(frames):
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 3] = turn * number
        entry = CameraEntry("v.png", pose, intrinsics(40.0, SIZE).double(), SIZE, "a", frame)
        views.append(View(entry, "a", frame / 10, torch.full((3, *SIZE[::-1]), 0.5), torch.ones(SIZE[::-1])))
    return views


def shown(errors: dict[int, float], part: float = 1.0):
    """What is drawn: the truth plus an error that depends on the frame, on the left `part` of the picture."""

    def drawn(view: View) -> RenderOut:
        rgb = torch.full((1, *SIZE[::-1], 3), 0.5)
        rgb[:, :, : round(part * SIZE[0])] += errors[view.entry.frame]
        one = torch.ones(1, *SIZE[::-1])
        return RenderOut(rgb, one, one, one, rgb)

    return drawn


def test_errors_that_stay_or_grow_steadily_do_not_flicker() -> None:
    views = held_out([0, 2, 4, 6])
    assert flicker(views, shown(dict.fromkeys(range(8), 0.2))) == pytest.approx(0, abs=1e-4)
    assert flicker(views, shown({f: 0.05 * f for f in range(8)})) == pytest.approx(0, abs=1e-4)


def test_an_error_that_comes_and_goes_flickers_by_its_bend() -> None:
    views = held_out([0, 2, 4, 6])
    errors = {0: 0.0, 2: 0.1, 4: 0.0, 6: 0.1}
    assert flicker(views, shown(errors)) == pytest.approx(0.2 * 255, rel=1e-4)
    assert flicker(views, shown(errors, part=0.5)) == pytest.approx(0.1 * 255, rel=1e-4)
    assert flicker(list(reversed(views)), shown(errors)) == pytest.approx(0.2 * 255, rel=1e-4)  # order is by frame


def test_only_still_cameras_and_even_distances_count() -> None:
    errors = {0: 0.0, 2: 0.1, 4: 0.0, 7: 0.3}
    assert flicker(held_out([0, 2, 4, 7]), shown(errors)) == pytest.approx(0.2 * 255, rel=1e-4)
    assert flicker(held_out([0, 2, 7]), shown(errors)) is None
    assert flicker(held_out([0, 2, 4], turn=0.1), shown(errors)) is None


def test_background_does_not_count() -> None:
    views = [replace(view, alpha=torch.zeros_like(view.alpha)) for view in held_out([0, 2, 4])]
    opaque = shown({0: 0.0, 2: 0.1, 4: 0.0}, part=0.5)

    def drawn(view: View) -> RenderOut:
        alpha = torch.zeros(1, *SIZE[::-1])
        alpha[:, :, : SIZE[0] // 2] = 1
        return replace(opaque(view), alpha=alpha)

    assert flicker(views, drawn) == pytest.approx(0.2 * 255, rel=1e-4)


def test_frames_between() -> None:
    assert between(12, 4) == [2, 6]  # 8 trains, but nothing after it does
    assert between(13, 4) == [2, 6, 10]
    assert between(12, 1) == []
    assert between(3, 4) == []


def write_inputs(folder: Path, scene: Scene4D) -> None:
    """The pictures of clip a that transforms.json names."""
    clip = scene.clips["a"]
    (folder / "a").mkdir()
    for i in range(len(clip.seconds)):
        write_filmed(folder / "a" / f"{i:04d}.png", scene, "a", i, clip.cameras[i])


def test_interpolation_is_scored_on_frames_that_did_not_train(tmp_path: Path) -> None:
    scene = toy_scene()
    write_truth(tmp_path, scene, Sim3.identity())
    write_inputs(tmp_path, scene)

    def scored(scene: Scene4D) -> dict:
        files.write(tmp_path / "scene.ply", replace(scene, world_from_input=Sim3.identity()))
        return evaluate(tmp_path / "scene.ply", tmp_path)

    assert scored(scene)["interpolation"] is None  # it trained on all frames
    perfect = scored(replace(scene, notes={"every": "4"}))["interpolation"]
    assert perfect["psnr"] > 45
    assert perfect["ssim"] > 0.99
    assert perfect["nearest_psnr"] < 35
    still = {name: poses[7:8].expand_as(poses) for name, poses in scene.motion.dual_quats.items()}
    stiff = replace(scene, motion=replace(scene.motion, dual_quats=still), notes={"every": "4"})
    assert scored(stiff)["interpolation"]["psnr"] < 35
