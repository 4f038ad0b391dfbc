"""The check pictures: one look tells whether the poses are right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from fourdgen.geometry.camera import Cameras, look_at, orbit_eyes
from fourdgen.poses import check
from fourdgen.poses.check import DOUBT, GOOD, GREY, OUT, Block
from fourdgen.poses.compare import Fit
from fourdgen.poses.hull_check import FITS, fitting, window_intrinsics
from fourdgen.poses.pictures import Pictures, cut
from tests.poses.subject import film, orbit


def _windows(cameras: Cameras) -> Pictures:
    return cut(*film(cameras), side=32)


def _path(azimuth: float, turn: float = 90.0) -> torch.Tensor:
    return look_at(orbit_eyes(azimuth + torch.linspace(0, turn, 9), 10.0, 3.0))


def _drawn(blocks: list[Block], folder: Path) -> np.ndarray:
    check.draw(blocks, folder / "check.png")
    return cv2.cvtColor(cv2.imread(str(folder / "check.png")), cv2.COLOR_BGR2RGB)


def test_the_bar_over_all_has_the_colour_of_the_worst_clip(tmp_path: Path) -> None:
    cameras = orbit(torch.linspace(0, 60, 4))
    pictures = _windows(cameras)
    fit = Fit(pictures, cameras.cam_from_world[:, :3, :3], torch.tensor([1.5]), 60, 0)
    good = check.block_of("a", fit, "the view turns")
    doubtful = check.block_of("b", fit, doubt="another turn fits nearly as well (--turn)")
    out = check.block_of("c", fit, left_out="another subject")
    given = check.block_of("d", fit, given=True)
    assert [block.bar for block in (good, doubtful, out, given)] == [GOOD, DOUBT, OUT, GREY]
    assert "another turn fits nearly as well" in doubtful.text
    assert "another subject" in out.text
    assert (good.poses is not None, out.poses is None) == (True, True)
    for blocks, bar in (([good], GOOD), ([good, doubtful], DOUBT), ([doubtful, out], OUT), ([given], GREY)):
        picture = _drawn(blocks, tmp_path)
        assert tuple(picture[0, -1]) == bar
        # Each clip has its bar, its frames and the model.
        assert len(picture) > len(blocks) * (20 + 2 * check.CELL) + check.HEIGHT


def test_a_long_reason_has_as_many_lines_as_it_needs(tmp_path: Path) -> None:
    rows = [torch.ones(1, 8, 8, 3)]
    short, long = (
        len(_drawn([Block("a", "a: UNCERTAIN: " + reason, DOUBT, rows, _path(0))], tmp_path))
        for reason in ("why", "sides look alike, so frames may be mixed up; " * 8)
    )
    assert long > short + 30


def test_eight_clips_have_eight_colours_in_paths_and_legend() -> None:
    picture = check.camera_paths([(f"clip {i}", _path(40.0 * i, 20.0)) for i in range(8)])
    views, legend = picture[:, : 2 * check.HEIGHT], picture[:, 2 * check.HEIGHT :]
    for color in check.COLORS:
        for part in (views, legend):  # beside each other, not over each other
            assert int((part == np.array(color)).all(-1).sum()) > 20
    distance = np.abs(np.array(check.COLORS)[:, None].astype(int) - np.array(check.COLORS)).sum(-1)
    assert int(distance[~np.eye(8, dtype=bool)].min()) > 60


def test_how_far_a_clip_turns_is_said_in_the_words_of_turn() -> None:
    assert check.turned(_path(0, 90)) == "turns by 90 degrees cw"
    assert check.turned(_path(0, -300)) == "turns by 300 degrees ccw"
    assert check.turned(_path(20, 0)) == "does not turn"
    back = torch.cat([_path(0, 90), _path(90, -60)])
    assert check.turned(back) == "turns by 30 degrees cw, within 90"


def test_the_side_view_looks_across_the_cameras() -> None:
    eyes = orbit_eyes(torch.full((5,), 70.0), 0.0, 3.0).double().numpy()
    assert np.allclose(np.abs(eyes @ check.side_axis(eyes)), 3.0, atol=1e-5)  # as far from the subject as it is


def test_given_cameras_that_do_not_fit_are_seen() -> None:
    cameras = orbit(torch.linspace(0, 300, 9))
    pictures = _windows(cameras)
    K = window_intrinsics(pictures, cameras.K, cameras.size)

    def fit(poses: torch.Tensor) -> tuple[torch.Tensor, float]:
        return fitting([(pictures.picture[:, 3:], Cameras(poses, K, (32, 32)))])[0]

    drawn, right = fit(cameras.cam_from_world)
    assert right > 0.8
    marked = check.outlined(pictures.picture[:, :3].permute(0, 2, 3, 1), drawn)
    assert bool(((marked - torch.tensor([230, 0, 160]) / 255).abs().amax(-1) < 0.1).flatten(1).any(1).all())
    assert fit(cameras.cam_from_world.flip(0))[1] < right - 0.08  # a roundish figure
    assert fit(torch.linalg.inv(cameras.cam_from_world))[1] < FITS  # world_from_cam, the commonest mistake


def test_windows_keep_a_principal_point_that_is_not_in_the_middle() -> None:
    cameras = orbit(torch.linspace(0, 100, 3))
    K = cameras.K.clone()
    K[:, 0, 2] += 5.0
    pictures = _windows(cameras)
    point = torch.tensor([[0.1, -0.2, 0.05]])
    at = Cameras(cameras.cam_from_world, K, cameras.size).project(point)[0][:, 0]
    inside = window_intrinsics(pictures, K, cameras.size)
    found = Cameras(cameras.cam_from_world, inside, (32, 32)).project(point)[0][:, 0]
    scale = pictures.unit[:, None] / max(cameras.size)
    corner = torch.tensor(cameras.size) / 2 - pictures.principal / scale
    assert torch.allclose(found, (at - corner) * scale, atol=1e-3)
