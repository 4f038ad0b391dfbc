"""Training windows: the cameras stay exact while the pictures are cut and shrunk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen.data.capture import Capture, Clip, write_picture
from fourdgen.data.records import ClipTrack
from fourdgen.fit.views import Views, find_window, level_side
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes

SIZE = (120, 90)
SPOT = torch.tensor([[0.3, -0.1, 0.2]])


def dotted(folder: Path) -> tuple[Capture, ClipTrack]:
    """A disc around the picture of one point, filmed by a camera that turns; the point's pixel is its centre."""
    poses = look_at(orbit_eyes(torch.linspace(0, 90, 5), 10.0, 3.0))
    track = ClipTrack(poses, intrinsics(40.0, SIZE).expand(5, 3, 3).clone(), torch.ones(5))
    centers = Cameras(track.cam_from_root, track.K, SIZE).project(SPOT)[0][:, 0]
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    for t, (cx, cy) in enumerate(centers.tolist()):
        mask = (np.hypot(x - cx, y - cy) < 12).astype(np.uint8) * 255
        write_picture(folder, "a", "mask", t, mask)
        write_picture(folder, "a", "rgb", t, np.dstack([mask, mask // 2, 0 * mask]))
    clip = Clip("a", "a.mp4", SIZE, torch.arange(5) / 10, torch.arange(5))
    return Capture((clip,), folder), track


def test_windows_follow_the_subject_and_keep_the_cameras_exact(tmp_path: Path) -> None:
    capture, track = dotted(tmp_path)
    for pixels in (12.0, 24.0):
        views = Views(capture, {"a": track}, pixels)
        for t in range(5):
            view = views.view("a", t)
            expected = view.cameras(track.cam_from_root[t]).project(SPOT)[0][0, 0]
            h, w = view.mask.shape
            grid_y, grid_x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
            middle = torch.stack([(grid_x * view.mask).sum(), (grid_y * view.mask).sum()]) / view.mask.sum()
            assert float((middle - expected).abs().max()) < 0.35  # a disc of whole pixels has its centre within a third


def test_colour_is_premultiplied_and_meets_any_background(tmp_path: Path) -> None:
    capture, track = dotted(tmp_path)
    view = Views(capture, {"a": track}, 12.0).view("a", 0)
    assert bool((view.rgb <= view.mask[None] + 2 / 255).all())
    corner = view.target(torch.tensor([0.1, 0.6, 0.9]))[:, 0, 0]
    assert torch.allclose(corner, torch.tensor([0.1, 0.6, 0.9]))


def test_pictures_are_never_enlarged(tmp_path: Path) -> None:
    capture, track = dotted(tmp_path)
    views = Views(capture, {"a": track}, 500.0)
    assert views.view("a", 0).size[0] == views.windows["a"].side


def test_beyond_the_picture_nothing_is_known() -> None:
    mask = torch.zeros(2, 40, 40, dtype=torch.uint8)
    mask[:, :12, :12] = 255  # the subject touches two borders
    window = find_window(mask)
    assert int(window.corner.min()) < 0


def test_a_view_knows_where_its_picture_ends(tmp_path: Path) -> None:
    capture, track = dotted(tmp_path)
    views = Views(capture, {"a": track}, 12.0)
    for t in range(5):
        view, corner = views.view("a", t), views.windows["a"].corner[t]
        scale = view.size[0] / views.windows["a"].side
        left, top, right, bottom = view.picture
        assert (left, top) == (-float(corner[0]) * scale, -float(corner[1]) * scale)
        assert right - left == pytest.approx(SIZE[0] * scale) and bottom - top == pytest.approx(SIZE[1] * scale)


def test_frames_with_an_empty_mask_take_their_neighbours_window() -> None:
    mask = torch.zeros(3, 40, 40, dtype=torch.uint8)
    mask[0, 10:20, 10:20] = 255
    mask[2, 20:30, 20:30] = 255
    window = find_window(mask)
    assert window.corner[1].tolist() in (window.corner[0].tolist(), window.corner[2].tolist())


def test_level_is_the_size_of_the_subject() -> None:
    mask = torch.zeros(1, 100, 100, dtype=torch.uint8)
    mask[0, 20:60, 30:50] = 255
    window = find_window(mask)
    assert window.subject == 40 and level_side(window, 20) == round(window.side / 2)
