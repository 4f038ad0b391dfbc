"""Stage sample: which frames train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fourdgen.data.capture import Capture, Clip, write_picture
from fourdgen.data.records import ClipTrack, RootTrack
from fourdgen.report import FourdgenError, Silent
from fourdgen.stages import sample
from fourdgen.workspace import Context, Job
from tests.toy import toy_scene

EMPTY = 3  # a frame of clip a whose mask is empty


@pytest.fixture
def seen(tmp_path: Path) -> tuple[Context, Capture, RootTrack]:
    """Clips of 12 and 6 frames with their masks and poses."""
    clips, tracks = [], {}
    for name, clip in toy_scene().clips.items():
        for t in range(len(clip.seconds)):
            mask = np.zeros((8, 8), np.uint8)
            mask[2:6, 2:6] = 0 if (name, t) == ("a", EMPTY) else 255
            write_picture(tmp_path, name, "mask", t, mask)
            write_picture(tmp_path, name, "rgb", t, np.zeros((8, 8, 3), np.uint8))
        clips.append(Clip(name, name, (8, 8), clip.seconds, clip.frame_ids))
        tracks[name] = ClipTrack(clip.cameras.cam_from_world, clip.cameras.K, torch.ones(len(clip.seconds)))
    job = Job((), tmp_path / "scene.ply", tmp_path)
    ctx = Context(tmp_path, job, "cpu", 1, 0, Silent())
    return ctx, Capture(tuple(clips), tmp_path), RootTrack(tracks, None, True)


def test_frames_without_a_subject_do_not_train(seen: tuple[Context, Capture, RootTrack]) -> None:
    frames = sample.run(seen[0], sample.SampleConfig(), *seen[1:])
    assert frames.index[frames.clip == 0].tolist() == [t for t in range(12) if t != EMPTY]
    assert frames.index[frames.clip == 1].tolist() == list(range(6))
    assert float(frames.probability.sum()) == pytest.approx(1)


def test_every_third_frame_trains_and_the_record_says_so(seen: tuple[Context, Capture, RootTrack]) -> None:
    ctx = seen[0]
    frames = sample.run(ctx, sample.SampleConfig(every=3), *seen[1:])
    assert frames.index[frames.clip == 0].tolist() == [0, 6, 9]  # 3 is empty
    assert frames.index[frames.clip == 1].tolist() == [0, 3]
    sample.save(frames, ctx.folder)
    again = sample.load(ctx.folder)
    assert again.every == 3
    assert again.names == ("a", "b")
    assert torch.equal(again.index, frames.index)


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    job = Job((), tmp_path / "scene.ply", tmp_path)
    with pytest.raises(FourdgenError, match=r"sample\.every"):
        sample.check(job, sample.SampleConfig(every=0))
    with pytest.raises(FourdgenError, match=r"sample\.mode"):
        sample.check(job, replace(sample.SampleConfig(), mode="often"))


def test_a_step_that_leaves_one_frame_is_refused_before_any_work(tmp_path: Path) -> None:
    for i in range(6):
        write_picture(tmp_path, "walk", "rgb", i, np.zeros((8, 8, 3), np.uint8))
    folder = next(path for path in tmp_path.rglob("*") if path.is_dir() and list(path.glob("*.png")))
    job = Job((folder,), tmp_path / "scene.ply", tmp_path / "run")
    sample.check(job, sample.SampleConfig(every=5))
    with pytest.raises(FourdgenError, match=r"sample\.every = 6: 1 of the 6 frames of clip .* would train") as caught:
        sample.check(job, sample.SampleConfig(every=6))
    assert caught.value.hint == "use 5 or less"


def test_a_clip_of_which_one_frame_would_train_is_refused_by_name(seen: tuple[Context, Capture, RootTrack]) -> None:
    """Clip b has 6 frames: every 5th leaves 0 and 5, every 6th the first alone."""
    frames = sample.run(seen[0], sample.SampleConfig(every=5), *seen[1:])
    assert frames.index[frames.clip == 1].tolist() == [0, 5]
    with pytest.raises(FourdgenError, match=r"sample\.every = 6: 1 of the 6 frames of clip b would train") as caught:
        sample.run(seen[0], sample.SampleConfig(every=6), *seen[1:])
    assert caught.value.hint == "use 5 or less"


def test_records_of_earlier_versions_are_read(seen: tuple[Context, Capture, RootTrack]) -> None:
    """They hold what nothing reads."""
    ctx = seen[0]
    frames = sample.run(ctx, sample.SampleConfig(), *seen[1:])
    sample.save(frames, ctx.folder)
    path = ctx.folder / "frames.safetensors"
    with safe_open(path, "pt") as file:
        names = file.metadata()
    save_file({**load_file(path), "view_bin": torch.zeros(len(frames.index))}, path, metadata=names)
    again = sample.load(ctx.folder)
    assert torch.equal(again.index, frames.index) and torch.equal(again.probability, frames.probability)
