"""Stage sample: which frames train and how often (pose-guided frame sampling, docs/method.md section 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from fourdgen.data import sources
from fourdgen.data.capture import Capture, stack, write_png
from fourdgen.data.records import FrameSet, RootTrack
from fourdgen.fit import sampler
from fourdgen.poses.check import COLORS
from fourdgen.report import FourdgenError
from fourdgen.workspace import Context, Job, Stage

MODES = ("pose", "clip_balanced", "uniform")
STORED = ("clip", "index", "seconds", "probability")
EVERY = "every"
LEAST_FRAMES = 2  # of a clip that train, where every nth does


@dataclass(frozen=True)
class SampleConfig:
    """Settings of stage sample."""

    mode: str = "pose"  # how often frames are drawn: pose (even viewing directions), clip_balanced or uniform
    every: int = 1  # train on every nth frame only; `eval` then scores the frames nearest midway (interpolation)


def check(job: Job, config: SampleConfig) -> None:
    """All that is known before frames are chosen: more than a clip has never train."""
    if config.mode not in MODES:
        raise FourdgenError(
            f"sample.mode: '{config.mode}' is not a way to draw frames", f"choose one of {', '.join(MODES)}"
        )
    if config.every < 1:
        raise FourdgenError(f"sample.every: {config.every} leaves no frame to train on", "use 1 or more")
    for name, path in zip(sources.clip_names(job.inputs), job.inputs, strict=True):
        try:
            count = sources.frame_count(sources.open_source(path))
        except FourdgenError:
            continue  # that it cannot be opened others say
        if config.every > 1 and 1 < count <= config.every:
            raise FourdgenError(
                f"sample.every = {config.every}: 1 of the {count} frames of clip {name} would train",
                f"use {count - 1} or less",
            )


def run(ctx: Context, config: SampleConfig, capture: Capture, track: RootTrack) -> FrameSet:
    names = tuple(track.clips)
    clip, index, seconds, poses = [], [], [], []
    for number, name in enumerate(names):
        mask = stack(capture, name)[1]
        seen = (mask > 127).flatten(1).any(1).nonzero()[:, 0]
        seen = _trained(name, seen, config.every)
        clip.append(torch.full((len(seen),), number))
        index.append(seen)
        seconds.append(capture.clip(name).seconds[seen].float())
        poses.append(track.clips[name].cam_from_root[seen])
    clips = torch.cat(clip)
    directions = sampler.view_directions(torch.cat(poses))
    if config.mode == "pose":
        probability = sampler.pose_guided(directions)
    elif config.mode == "clip_balanced":
        probability = sampler.clip_balanced(clips)
    else:
        probability = sampler.uniform(len(clips))
    frames = FrameSet(names, clips, torch.cat(index), torch.cat(seconds), probability, config.every)
    _draw_check(frames, directions, ctx.folder / "check.png")
    ctx.report.emit("note", text=f"{len(clips)} frames of {len(names)} clip{'s' * (len(names) > 1)} train")
    if config.every > 1:
        ctx.report.emit("note", text=f"every {config.every}th frame trains, the others are held out")
    return frames


def _trained(name: str, seen: Int[Tensor, "s"], every: int) -> Int[Tensor, "f"]:
    """Those frames among the `seen` ones of a clip that train. Raises FourdgenError: one frame of several, or none."""

    def left(nth: int) -> Int[Tensor, "f"]:
        return seen[seen % nth == 0]

    if every > 1 and len(left(every)) < LEAST_FRAMES <= len(seen):
        most = next(nth for nth in range(every - 1, 0, -1) if len(left(nth)) >= LEAST_FRAMES)
        raise FourdgenError(
            f"sample.every = {every}: {len(left(every))} of the {len(seen)} frames of clip {name} would train",
            f"use {most} or less",
        )
    return left(every)


def _draw_check(frames: FrameSet, directions: torch.Tensor, path: Path) -> None:
    """Viewing directions as a map, azimuth across and elevation up; a larger dot is drawn more often.
    A colour is a clip, by its name below."""
    width, height = 720, 360
    picture = np.full((height, width, 3), 255, np.uint8)
    for line in range(0, width, width // 12):
        cv2.line(picture, (line, 0), (line, height), (225, 225, 225), 1)
    cv2.line(picture, (0, height // 2), (width, height // 2), (200, 200, 200), 1)
    azimuth = torch.atan2(directions[:, 0], -directions[:, 2])
    elevation = torch.asin((-directions[:, 1]).clamp(-1, 1))
    share = frames.probability / frames.probability.mean()
    for number, (a, e, s) in enumerate(zip(azimuth.tolist(), elevation.tolist(), share.tolist(), strict=True)):
        place = (int((a / (2 * math.pi) + 0.5) * width), int((0.5 - e / math.pi) * height))
        color = COLORS[int(frames.clip[number]) % len(COLORS)]
        cv2.circle(picture, place, max(2, round(4 * math.sqrt(s))), color, -1, cv2.LINE_AA)
    left = 10
    for number, name in enumerate(frames.names):
        color = COLORS[number % len(COLORS)]
        cv2.circle(picture, (left, height - 12), 5, color, -1, cv2.LINE_AA)
        cv2.putText(picture, name, (left + 9, height - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)
        left += 24 + cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0]
    write_png(path, picture)


def save(frames: FrameSet, folder: Path) -> None:
    tensors = {name: getattr(frames, name).contiguous() for name in STORED}
    save_file(
        tensors,
        folder / "frames.safetensors",
        metadata={str(i): name for i, name in enumerate(frames.names)} | {EVERY: str(frames.every)},
    )


def load(folder: Path) -> FrameSet:
    from safetensors import safe_open

    path = folder / "frames.safetensors"
    with safe_open(path, "pt") as file:
        names = file.metadata()
    every = int(names.pop(EVERY))
    stored = load_file(path)  # files of earlier versions hold more
    tensors = {name: stored[name] for name in STORED}
    return FrameSet(tuple(names[str(i)] for i in range(len(names))), **tensors, every=every)


STAGE = Stage(
    name="sample",
    needs=("ingest", "root_pose"),
    config=SampleConfig,
    version=2,
    run=run,
    save=save,
    load=load,
    check=check,
)
