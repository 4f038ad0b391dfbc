"""Windows of a subject that the border of the picture cuts off: what lies beyond is unknown, not empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fourdgen.poses.accept import overlap
from fourdgen.poses.compare import COLOR_WEIGHT, Fit, Pace
from fourdgen.poses.pictures import Pictures, cut, mask_boxes, seen_through, whole_boxes
from fourdgen.poses.tracks import places_of
from fourdgen.poses.turn import turn_from_flow
from tests.poses.subject import film, orbit

CAMERAS = orbit(torch.linspace(0, 150, 12))
ROTATION = CAMERAS.cam_from_world[:, :3, :3]
LEAVES = {8: 0.15, 9: 0.35, 10: 0.55, 11: 0.75}  # share of the subject's width that is out of the picture


def _shifted(frames: np.ndarray, pixels: list[int]) -> np.ndarray:
    """Frames that stand so many pixels further to the left; what enters on the right is empty."""
    out = np.zeros_like(frames)
    for i, by in enumerate(pixels):
        out[i, :, : frames.shape[2] - by] = frames[i, :, by:]
    return out


@pytest.fixture(scope="module")
def filmed() -> tuple[np.ndarray, np.ndarray]:
    return film(CAMERAS)


@pytest.fixture(scope="module")
def leaving(filmed: tuple) -> tuple[np.ndarray, np.ndarray, list[int]]:  # type: ignore[type-arg]
    """The same film, but in the last four frames the subject is further and further out on the left."""
    rgb, mask = filmed
    boxes = mask_boxes(mask)
    by = [0] * 12
    for i, share in LEAVES.items():
        by[i] = int(boxes[i, 0] + share * (boxes[i, 2] - boxes[i, 0]))
    return _shifted(rgb, by), _shifted(mask, by), by


def _fit(pictures: Pictures, place: torch.Tensor | None = None) -> Fit:
    focal = float(CAMERAS.K[0, 0, 0]) / 96
    return Fit(pictures, ROTATION, torch.tensor([focal]), 400, 0, place=place)


def _true_places(by: list[int], pictures: Pictures) -> torch.Tensor:
    place = places_of(CAMERAS.cam_from_world, float(CAMERAS.K[0, 0, 0]) / 96, float(pictures.extent))
    place[:, 0] -= torch.tensor(by) / 96
    return place


def test_what_a_window_shows_beyond_the_picture_is_empty_where_the_subject_is_not_cut_off(filmed: tuple) -> None:  # type: ignore[type-arg]
    """The subject stands just inside the picture: its windows stick out, and every pixel of them counts in full."""
    rgb, mask = filmed
    near = [int(x) - 1 for x in mask_boxes(mask)[:, 0]]
    pictures = cut(_shifted(rgb, near), _shifted(mask, near), 32)
    assert float((pictures.principal[:, 0] / pictures.unit).min()) < 0.5 + 0.16  # the picture's left side is in sight
    assert float(pictures.known.min()) == 1 and float(pictures.weight.min()) == 1
    fit = _fit(pictures)
    out, index = fit.render(torch.arange(5)), torch.arange(5)
    target = pictures.picture[index]
    color = (out.rgb.permute(0, 3, 1, 2) - target[:, :3]).abs().mean((1, 2, 3))
    plain = COLOR_WEIGHT * color + (out.alpha - target[:, 3]).abs().mean((1, 2))
    assert torch.equal(fit.errors(index), plain)
    assert fit.score() == float(fit.frame_scores().mean())


def test_what_lies_beyond_a_border_that_cuts_the_subject_off_is_unknown(filmed: tuple, leaving: tuple) -> None:  # type: ignore[type-arg]
    rgb, mask, by = leaving
    pictures, whole = cut(rgb, mask, 32), cut(*filmed, 32)
    assert torch.equal(pictures.known[:8], torch.ones(8, 32, 32)) and torch.equal(pictures.weight[:8], torch.ones(8))
    for i in LEAVES:
        border = pictures.principal[i, 0] - 0.5 * pictures.unit[i]  # where the picture begins, in pixels of the window
        columns = torch.arange(32)
        assert torch.equal(pictures.known[i, 0], (columns >= border).float()), i
        assert bool((pictures.known[i] == pictures.known[i, 0]).all())  # above and below nothing is cut off
        shown = (mask[i] > 127).sum() / (filmed[1][i] > 127).sum()
        assert float(pictures.weight[i]) == pytest.approx(shown, abs=0.15)
        # Its middle is where it would be seen, and its window as large as if all of it were there.
        assert float(pictures.center[i, 0]) == pytest.approx(float(whole.center[i, 0]) - by[i] / 96, abs=0.05)
        assert float(pictures.unit[i]) == pytest.approx(float(whole.unit[i]), rel=0.15)
    assert pictures.whole.tolist() == list(range(9))  # frame 8 lacks a tail only


def test_right_poses_fit_a_subject_that_leaves_the_picture(leaving: tuple) -> None:  # type: ignore[type-arg]
    rgb, mask, by = leaving
    pictures = cut(rgb, mask, 32)
    fit = _fit(pictures, _true_places(by, pictures))
    fit.run(60, Pace(turn=0.0, place=0.0, depth=0.0, smooth=0.0), decay=False)
    scores = fit.frame_scores()
    assert float(scores[8:].max()) < 1.5 * float(scores[:8].max())
    blind = replace(pictures, known=torch.ones_like(pictures.known), weight=torch.ones(12))
    seen = Fit(blind, ROTATION, fit.focal.detach().exp(), 0, 0, model=fit.model, place=fit.place.detach())
    assert float(seen.frame_scores()[11]) > 3 * float(scores[11])
    assert overlap(fit) > overlap(seen) + 0.02


def test_places_of_a_subject_that_leaves_the_picture_are_found(leaving: tuple) -> None:  # type: ignore[type-arg]
    rgb, mask, by = leaving
    pictures = cut(rgb, mask, 32)
    fit = _fit(pictures)
    fit.run(60, Pace(turn=0.0, smooth=0.0), decay=False)
    off = (fit.place.detach() - _true_places(by, pictures))[:, 0].abs() / float(pictures.extent)
    assert float(off[8:].max()) < 0.12  # of the subject's size; it would follow what is left of it by 0.2


def test_a_lens_that_zooms_and_is_off_the_middle_sees_the_same_window(filmed: tuple) -> None:  # type: ignore[type-arg]
    rgb, mask = filmed
    pictures = cut(rgb, mask, 32)
    K = CAMERAS.K.clone()
    K[:, 0, 0] *= torch.linspace(0.8, 1.3, 12)
    K[:, 1, 1] = K[:, 0, 0]
    K[:, :2, 2] += torch.tensor([9.0, -6.0])
    moved, focal = seen_through(pictures, K, (96, 96))
    assert focal == pytest.approx(float(K[:, 0, 0].median()) / 96)
    # Pixels of the picture and of the window are one affine map apart: the one that the plain cameras have.
    scale = pictures.unit / 96
    corner = pictures.principal - 48 * scale[:, None]
    inside = moved.intrinsics(torch.full((12,), focal))
    wanted = K * scale[:, None, None]
    wanted[:, :2, 2] += corner
    assert torch.allclose(inside[:, :2], wanted[:, :2], rtol=1e-4)


def test_boxes_are_continued_to_the_size_of_the_frames_around() -> None:
    size = (100, 80)
    boxes = np.array([[10, 10, 40, 50]] * 3 + [[0, 10, 20, 50], [70, 30, 100, 80], [np.nan] * 4], np.float32)
    whole = whole_boxes(boxes, size)
    assert np.array_equal(whole[:3], boxes[:3]) and np.isnan(whole[5]).all()
    assert whole[3].tolist() == [-10, 10, 20, 50]
    assert whole[4].tolist() == [70, 30, 100, 80]  # as large as the others are: nothing is missing
    assert whole_boxes(boxes[3:5], size).tolist() == boxes[3:5].tolist()  # nobody knows how large it is


def test_boxes_are_continued_to_the_size_at_that_time() -> None:
    """The subject comes nearer evenly: a frame after a gap, cut off, is as wide as one filmed then would be."""
    time = np.array([0, 1, 2, 12, 16, 17], np.float64)
    wide = (20 + 2 * time).astype(np.float32)
    boxes = np.stack([50 - wide / 2, np.full(6, 10), 50 + wide / 2, np.full(6, 40)], 1).astype(np.float32)
    boxes[3] = [0, 10, 15, 40]
    whole = whole_boxes(boxes, (100, 80), time)
    assert whole[3].tolist() == [15 - 44, 10, 15, 40]
    assert np.array_equal(whole[[0, 1, 2, 4, 5]], boxes[[0, 1, 2, 4, 5]])


def test_the_share_that_a_frame_shows_is_of_the_area_at_that_time(filmed: tuple) -> None:  # type: ignore[type-arg]
    """A still subject that comes nearer, seen whole before a gap and after it, and cut off just after the gap's
    begin."""
    rgb, mask = filmed[0][:1].repeat(9, 0), filmed[1][:1].repeat(9, 0)
    for i in range(4):  # smaller at first: every second pixel
        small = mask[i, ::2, ::2].copy()
        mask[i] = 0
        mask[i, 24:72, 24:72] = small
    seen = mask_boxes(mask[:1])[0]
    mask[4] = 0
    mask[4, :, : int(seen[2])] = mask[0][:, : int(seen[2])]
    left = int((seen[0] + seen[2]) / 2)
    mask[4] = np.roll(mask[4], -left, 1)
    mask[4, :, -left:] = 0
    soon = cut(rgb, mask, 16, time=torch.tensor([0.0, 1, 2, 3, 4, 40, 41, 42, 43])).weight[4]
    halfway = cut(rgb, mask, 16, time=torch.tensor([0.0, 1, 2, 3, 22, 40, 41, 42, 43])).weight[4]
    assert float(soon) > 1.5 * float(halfway)  # of the small one it is half, of one halfway much less


def test_stray_pixels_count_for_little(filmed: tuple) -> None:  # type: ignore[type-arg]
    rgb, mask = filmed[0].copy(), filmed[1].copy()
    mask[5] = 0
    mask[5, 40:44, 40:44] = 255
    weight = cut(rgb, mask, 32).weight
    assert float(weight[5]) < 0.2
    assert torch.equal(weight[torch.arange(12) != 5], torch.ones(11))


def test_the_border_does_not_turn_a_subject_that_slides_out(filmed: tuple) -> None:  # type: ignore[type-arg]
    """One view of it, 5 pixels further out a frame: what moves is the picture's border against the subject."""
    rgb, mask = filmed[0][:1].repeat(8, 0), filmed[1][:1].repeat(8, 0)
    start = int(mask_boxes(mask)[0, 0]) + 4
    by = [start + 4 * i for i in range(8)]
    out = turn_from_flow(_shifted(rgb, by), _shifted(mask, by))
    assert float(out.rate.abs().max()) < 0.02


def test_a_turn_goes_on_while_the_subject_slides_out(filmed: tuple, leaving: tuple) -> None:  # type: ignore[type-arg]
    out, whole = turn_from_flow(*leaving[:2]), turn_from_flow(*filmed)
    assert torch.allclose(out.rate[:7], whole.rate[:7], atol=0.03)
    assert torch.equal(out.rate[7:], out.rate[6:7].expand(4))
    assert not bool(out.clear[7:].any()) and out.sign == whole.sign
