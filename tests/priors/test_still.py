"""Masks corrected by the whole clip: a figure walks through a room before a camera that stands still, or pans."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fourdgen.priors import masks, still

FRAMES, SIZE = 12, 120


def room(random: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Patches of grey-brown and blue: the figure's colour is rare in it, and not absent."""
    coarse = random.integers(0, 2, (8, 8))[..., None]
    colors = np.where(coarse, (120, 110, 90), (70, 90, 140)).astype(np.float32)
    picture = cv2.resize(colors, (size, size), interpolation=cv2.INTER_NEAREST)
    return (picture + cv2.GaussianBlur(random.normal(0, 30, (size, size, 3)).astype(np.float32), (0, 0), 1.5)).clip(
        0, 255
    )


def walk(pan: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(pictures, true masks): an upright figure that goes from left to right; the camera pans by `pan` a frame."""
    random = np.random.default_rng(0)
    wide = room(random, SIZE + pan * FRAMES)[:SIZE] if pan else room(random)
    pictures, truth = [], []
    for t in range(FRAMES):
        alpha = np.zeros((SIZE, SIZE), np.float32)
        x = 25 + 6 * t
        cv2.ellipse(alpha, (x, 60), (11, 28), 0, 0, 360, 1, -1)
        cv2.circle(alpha, (x, 28), 8, 1, -1)
        picture = (
            wide[:, pan * t : pan * t + SIZE] * (1 - alpha[..., None]) + np.array((200, 150, 120)) * alpha[..., None]
        )
        pictures.append((picture + random.normal(0, 2, picture.shape)).clip(0, 255).astype(np.uint8))
        truth.append((alpha * 255).astype(np.uint8))
    return np.stack(pictures), np.stack(truth)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a > 127) & (b > 127)).sum() / ((a > 127) | (b > 127)).sum())


def spoilt(truth: np.ndarray) -> np.ndarray:
    """Every other frame has lost the upper half; every third holds a patch of the room."""
    out = truth.copy()
    out[::2, :58] = 0
    out[::3, 80:110, 60:100] = 255
    return out


def test_a_camera_that_stands_still_is_told_from_one_that_pans() -> None:
    assert still.is_still(*walk())
    assert not still.is_still(*walk(pan=3))


def test_lost_halves_come_back_and_patches_of_the_room_go() -> None:
    pictures, truth = walk()
    before = spoilt(truth)
    after = still.correct(pictures, before)
    assert iou(before, truth) < 0.6
    assert iou(after, truth) > 0.9
    assert min(iou(a, b) for a, b in zip(after, truth, strict=True)) > 0.85


def test_a_right_mask_stays_right() -> None:
    pictures, truth = walk()
    assert iou(still.correct(pictures, truth), truth) > 0.93


def test_a_subject_that_never_moves_stays() -> None:
    """There is no empty scene behind it, and nothing may be concluded from that."""
    pictures, truth = walk()
    frozen = np.repeat(pictures[5:6], FRAMES, 0)
    assert iou(still.correct(frozen, np.repeat(truth[5:6], FRAMES, 0)), np.repeat(truth[5:6], FRAMES, 0)) > 0.9


@pytest.mark.parametrize("pan", [0, 3])
def test_only_still_cameras_are_corrected(monkeypatch: pytest.MonkeyPatch, pan: int) -> None:
    pictures, truth = walk(pan)
    monkeypatch.setattr(masks, "network", lambda: None)
    monkeypatch.setattr(masks.classical, "foreground", lambda rgb, box, report: spoilt(truth))
    found = masks.cut_subject(pictures).mask
    assert (iou(found, truth) > 0.85) == (pan == 0)
