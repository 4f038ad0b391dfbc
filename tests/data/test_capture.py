"""A capture on disk is the capture in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fourdgen.data.capture import Capture, Clip, load_capture, picture_path, save_capture, stack, write_picture
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.report import FourdgenError


def make(folder: Path) -> tuple[Capture, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rgb, mask = rng.integers(0, 256, (3, 6, 8, 3), np.uint8), rng.integers(0, 256, (3, 6, 8), np.uint8)
    for t in range(3):
        write_picture(folder, "a b", "rgb", t, rgb[t])
        write_picture(folder, "a b", "mask", t, mask[t])
        write_picture(folder, "a b", "weight", t, 255 - mask[t])
    poses = look_at(orbit_eyes(torch.arange(3.0), 20.0, 3.0))
    cameras = Cameras(poses, intrinsics(40.0, (8, 6)).expand(3, 3, 3), (8, 6))
    clip = Clip(
        "a b",
        "in/a b.mp4",
        (8, 6),
        torch.tensor([0.0, 0.04, 0.1]),
        torch.tensor([0, 1, 4]),
        "filmed",
        cameras,
        "plain",
        True,
    )
    capture = Capture((clip,), folder)
    save_capture(capture, folder)
    return capture, rgb, mask


def test_everything_comes_back(tmp_path: Path) -> None:
    written, rgb, mask = make(tmp_path)
    read = load_capture(tmp_path)
    a, b = written.clips[0], read.clip("a b")
    assert (a.name, a.source, a.size, a.origin, a.masks_from, a.weighted) == (
        b.name, b.source, b.size, b.origin, b.masks_from, b.weighted
    )  # fmt: skip
    assert torch.equal(a.seconds, b.seconds) and torch.equal(a.frame_ids, b.frame_ids)
    assert a.cameras is not None and b.cameras is not None
    assert torch.equal(a.cameras.cam_from_world, b.cameras.cam_from_world) and torch.equal(a.cameras.K, b.cameras.K)
    frame = read.frame("a b", 2)
    assert np.array_equal((frame.rgb * 255).round().byte().numpy(), rgb[2])
    assert np.array_equal((frame.mask * 255).round().byte().numpy(), mask[2])
    assert np.array_equal((frame.weight * 255).round().byte().numpy(), 255 - mask[2])


def test_stack_takes_some_frames_in_the_order_asked_for(tmp_path: Path) -> None:
    capture, rgb, mask = make(tmp_path)
    some, masks = stack(capture, "a b", [2, 0])
    assert np.array_equal(some.numpy(), rgb[[2, 0]]) and np.array_equal(masks.numpy(), mask[[2, 0]])
    assert stack(capture, "a b")[0].shape == (3, 6, 8, 3)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    capture, _, _ = make(tmp_path)
    with pytest.raises(KeyError, match="there are a b"):
        capture.clip("b")
    with pytest.raises(IndexError):
        capture.frame("a b", 3)
    (tmp_path / "a b" / "mask" / "00001.png").write_bytes(b"")
    with pytest.raises(FourdgenError, match=r"00001\.png"):
        capture.frame("a b", 1)
    (tmp_path / "capture.json").write_text('{"version": 99}')
    with pytest.raises(FourdgenError, match="another version"):
        load_capture(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_noticed_when_a_picture_is_written(tmp_path: Path) -> None:
    place = picture_path(tmp_path, "a", "rgb", 0)
    place.parent.mkdir(parents=True)
    place.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_picture(tmp_path, "a", "rgb", 0, np.zeros((8, 8, 3), np.uint8))


def test_toned_pictures_are_in_the_assets_colours(tmp_path: Path) -> None:
    capture, rgb, mask = make(tmp_path)
    asset = (0.2 + 0.5 * rgb / 255).astype(np.float32)
    gain, bias = torch.tensor([0.8, 0.6, 0.9]), torch.tensor([0.05, 0.1, -0.02])
    filmed = (np.clip(asset * gain.numpy() + bias.numpy(), 0, 1) * 255).round().astype(np.uint8)
    for t in range(3):
        write_picture(tmp_path, "a b", "rgb", t, filmed[t])
    toned = capture.toned({"a b": (gain, bias)})
    assert np.abs(stack(toned, "a b")[0].numpy() / 255 - asset).max() < 1 / 255 / 0.6 + 1e-3
    assert np.array_equal(stack(toned, "a b")[1].numpy(), mask)
    assert np.array_equal(stack(capture, "a b")[0].numpy(), filmed)  # the first capture stays as it was
