"""Masks: of drawn scenes whose exact alpha is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fourdgen.priors import masks, neural, plain, subject
from fourdgen.report import FourdgenError

SIZE = 160


def antialiased(draw, size: int = SIZE) -> np.ndarray:
    """Alpha 0..1 of what `draw` paints white at 8 times the size."""
    big = np.zeros((size * 8, size * 8), np.uint8)
    draw(big)
    return cv2.resize(big, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def figure(shift: float = 0.0) -> np.ndarray:
    """A body on two legs that meet at the feet: the gap between them is enclosed. 0..1."""

    def draw(big: np.ndarray) -> None:
        x = round((80 + shift) * 8)
        cv2.ellipse(big, (x, 60 * 8), (30 * 8, 25 * 8), 0, 0, 360, 255, -1)
        cv2.fillPoly(big, [np.array([[x - 150, 500], [x - 70, 500], [x - 120, 1000], [x - 190, 1000]])], 255)
        cv2.fillPoly(big, [np.array([[x + 70, 500], [x + 150, 500], [x + 190, 1000], [x + 120, 1000]])], 255)
        cv2.rectangle(big, (x - 190, 980), (x + 190, 1050), 255, -1)

    return antialiased(draw)


def compose(alpha: np.ndarray, front: np.ndarray | tuple, back: np.ndarray | tuple, noise: float = 0.0) -> np.ndarray:
    picture = alpha[..., None] * np.asarray(front, np.float32) + (1 - alpha[..., None]) * np.asarray(back, np.float32)
    if noise:
        picture = picture + np.random.default_rng(0).normal(0, noise, picture.shape)
    return picture.clip(0, 255).round().astype(np.uint8)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


@pytest.mark.parametrize("back", [(255, 255, 255), (0, 0, 0), (30, 160, 60)])
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_plain_background_of_any_colour(back: tuple[int, int, int], noise: float) -> None:
    truth = np.stack([figure(shift) for shift in (0.0, 3.3, 7.1)])
    clip = np.stack([compose(a, (190, 110, 60), back, noise) for a in truth])
    cut = masks.cut_subject(clip)
    assert cut.way == "plain"
    for mask, alpha in zip(cut.mask, truth):
        assert iou(mask / 255, alpha) > 0.985
    gap = cut.mask[0][92:118, 77:84]
    assert gap.max() == 0  # between the legs


def test_rim_colours_carry_no_fringe() -> None:
    alpha = figure()
    cut = masks.cut_subject(np.stack([compose(alpha, (190, 110, 60), (255, 255, 255))] * 2))
    rim = (alpha > 0.2) & (alpha < 0.8)
    assert np.abs(cut.rgb[0][rim].astype(int) - (190, 110, 60)).mean() < 6  # as filmed: 72
    assert np.abs(cut.mask[0][rim] / 255 - alpha[rim]).mean() < 0.05


def test_white_parts_of_a_subject_on_white_stay() -> None:
    """An eye that is a little off white, and a white patch with a shaded rim: neither is a gap."""
    alpha = figure()
    front = np.full((SIZE, SIZE, 3), (190, 110, 60), np.float32)
    eye = antialiased(lambda big: cv2.circle(big, (70 * 8, 55 * 8), 6 * 8, 255, -1))[..., None]
    patch = cv2.GaussianBlur(antialiased(lambda big: cv2.circle(big, (95 * 8, 60 * 8), 11 * 8, 255, -1)), (0, 0), 5)
    front = front * (1 - eye) + 248 * eye
    front = front * (1 - patch[..., None]) + 255 * patch[..., None]
    cut = masks.cut_subject(np.stack([compose(alpha, front, (255, 255, 255))] * 2))
    inside = cv2.erode((alpha == 1).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert cut.mask[0][:80][inside[:80]].min() >= 250


def test_a_subject_cut_off_by_the_frame() -> None:
    alpha = np.roll(figure(), 50, 0)
    alpha[:50] = 0
    cut = masks.cut_subject(np.stack([compose(alpha, (190, 110, 60), (255, 255, 255))] * 2))
    assert cut.way == "plain" and iou(cut.mask[0] / 255, alpha) > 0.98


def test_a_picture_of_the_world_is_not_plain() -> None:
    rng = np.random.default_rng(0)
    world = cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (SIZE, SIZE))
    clip = np.stack([compose(figure(), (190, 110, 60), world)] * 2)
    assert plain.find_plain(clip) is None
    with pytest.raises(FourdgenError, match="not one plain colour"):
        masks.cut_subject(clip, way="plain")


def test_a_border_of_two_colours_is_not_plain() -> None:
    clip = np.stack([compose(figure(), (190, 110, 60), (255, 255, 255))] * 2)
    assert plain.find_plain(clip) is not None
    clip[:, :, -45:] = (60, 60, 200)
    assert plain.find_plain(clip) is None


def test_an_empty_plain_picture_is_not_taken_for_a_subject() -> None:
    clip = np.full((2, SIZE, SIZE, 3), 255, np.uint8)
    assert masks._cut_plain(clip, None) is None


def two_things(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Soft masks with a large disc that moves right and a small one that stands at the left; the large one alone."""
    both, large = [], []
    for t in range(count):
        a = antialiased(lambda big, t=t: cv2.circle(big, ((70 + 4 * t) * 8, 80 * 8), 30 * 8, 255, -1))
        b = antialiased(lambda big: cv2.circle(big, (15 * 8, 140 * 8), 10 * 8, 255, -1))
        large.append(a)
        both.append(np.maximum(a, b))
    return (np.stack(both) * 255).astype(np.uint8), (np.stack(large) * 255).astype(np.uint8)


def test_follow_keeps_the_prominent_thing() -> None:
    both, large = two_things()
    assert np.array_equal(subject.follow(both), large)


def test_the_box_chooses_another() -> None:
    both, large = two_things()
    kept = subject.follow(both, (2, 125, 30, 30))
    assert np.array_equal(kept, both - large)


def test_follow_survives_a_frame_without_a_mask() -> None:
    both, large = two_things()
    both[3] = 0
    kept = subject.follow(both)
    assert kept[3].max() == 0 and np.array_equal(kept[4:], large[4:])


def test_box_on_a_plain_background() -> None:
    both, large = two_things(3)
    clip = np.stack([compose(a / 255, (190, 110, 60), (255, 255, 255)) for a in both])
    cut = masks.cut_subject(clip, box=(2, 125, 30, 30))
    assert iou(cut.mask[0] / 255, (both - large)[0] / 255) > 0.97


def moving_scene(count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """A red figure that walks before a still, busy, bluish wall."""
    rng = np.random.default_rng(1)
    wall = cv2.resize(rng.integers(0, 120, (20, 20, 3), np.uint8), (SIZE, SIZE)).astype(np.float32)
    wall[..., 2] += 90
    truth = np.stack([figure(3.0 * t - 8) for t in range(count)])
    return np.stack([compose(a, (210, 70, 40), wall, 2.0) for a in truth]), truth


def test_classical_masks_find_what_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "network", lambda: None)
    clip, truth = moving_scene()
    cut = masks.cut_subject(clip)
    assert cut.way == "classical"
    assert np.mean([iou(m / 255, a) for m, a in zip(cut.mask, truth)]) > 0.75
    again = masks.cut_subject(clip)
    assert np.array_equal(cut.mask, again.mask)
    with pytest.raises(FourdgenError, match="no mask weights"):
        masks.cut_subject(clip, way="u2netp")


class RedNetwork:
    """Answers as U2-Net does, but marks what is red: the real input and output shapes, without its weights."""

    def get_inputs(self) -> list:
        return [type("Port", (), {"name": "input.1"})]

    def get_outputs(self) -> list:
        return [type("Port", (), {"name": "d0"})]

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        (picture,) = feed.values()
        assert picture.shape == (1, 3, 320, 320) and picture.dtype == np.float32
        color = picture[0].transpose(1, 2, 0) * neural.DEVIATION + neural.MEAN
        assert color.min() > -1e-6 and abs(color.max() - 1) < 1e-3
        return [(color[..., 0] - color[..., 2] > 0.2)[None, None].astype(np.float32)]


@pytest.mark.parametrize("box", [None, (40.0, 20.0, 70.0, 120.0)])
def test_the_network_is_asked_in_the_right_place(box: tuple | None) -> None:
    """What is seen in a moving crop must land where it is in the picture."""
    clip, truth = moving_scene()
    mask = neural.track(clip, RedNetwork(), box)
    assert np.mean([iou(m / 255, a) for m, a in zip(mask, truth)]) > 0.93


def test_real_network_finds_a_figure() -> None:
    found = masks.network()
    if found is None:
        pytest.skip("the mask weights are not on this machine: fourdgen doctor --fetch")
    clip, truth = moving_scene(2)
    mask = neural.track(clip, neural.open_network(Path(found[1]), 2))
    # 0.78 when written: at its 320 pixels the network closes the gap between the legs.
    assert np.mean([iou(m / 255, a) for m, a in zip(mask, truth)]) > 0.7
