"""A further round of training: filmed frames and made-up views as one capture (docs/method.md 11.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.data.capture import Capture
from fourdgen.data.records import ClipTrack, FrameSet
from fourdgen.geometry.transforms import rigid_inverse
from fourdgen.scene.bones import ClipTime
from fourdgen.scene.scene4d import Scene4D

SHARE = 0.5  # of all draws that made-up views may take at most
WANTED = 0.4  # of all draws, that they take where they have the frames for it and their pixels count
COUNTS = 0.5  # mean weight of the subject's pixels from which they take all of that; with less, they take less
NEVER = 0.5 / 255  # a frame whose mean weight is below this was refused


def with_views(
    tracks: Mapping[str, ClipTrack], scene: Scene4D, views: Capture, drifts: Mapping[str, Float[Tensor, "t 4 4"]]
) -> dict[str, ClipTrack]:
    """Root poses of filmed clips as the scene has them (refined), and the known ones of the made-up views; in the root
    frame of the training that is taken up, from which `drifts` (fit.gauge) have brought some clips of the scene."""
    joined = {}
    for name, track in tracks.items():
        cameras = scene.clips[name].cameras
        poses = _undone(cameras.cam_from_world, drifts.get(name))
        joined[name] = replace(track, cam_from_root=poses, K=cameras.K)
    for clip in views.clips:
        assert clip.cameras is not None  # made-up views are made with cameras
        drift = drifts.get(clip.source)
        if drift is not None:
            moments = (clip.seconds[:, None] - scene.clips[clip.source].seconds).abs().argmin(1)
            drift = drift[moments]
        poses = _undone(clip.cameras.cam_from_world, drift)
        joined[clip.name] = ClipTrack(poses, clip.cameras.K, torch.ones(len(clip)))
    return joined


def _undone(
    cam_from_new: Float[Tensor, "t 4 4"], old_from_new: Float[Tensor, "t 4 4"] | None
) -> Float[Tensor, "t 4 4"]:
    return cam_from_new if old_from_new is None else (cam_from_new.double() @ rigid_inverse(old_from_new)).float()


def times_with_views(times: Mapping[str, ClipTime], views: Capture) -> dict[str, ClipTime]:
    """Made-up views show the motion of the clip that they were made for, at its own times."""
    joined = dict(times)
    for clip in views.clips:
        source = times[clip.source]
        joined[clip.name] = ClipTime(clip.seconds.float(), source.code_of, source.rate, source.offset, filmed=False)
    return joined


def frames_with_views(frames: FrameSet, views: Capture) -> FrameSet:
    """The filmed frames and all frames of the views that count at all. Made-up ones get four tenths of the draws,
    evenly, or fewer where few of their pixels count; however many there are, filmed ones keep half."""
    names, clip, index, seconds = list(frames.names), [], [], []
    weighed, covered = 0.0, 0.0
    for made in views.clips:
        counts = [t for t in range(len(made)) if views.read(made.name, "weight", t).mean() > 255 * NEVER]
        if not counts:
            continue
        for t in counts:
            subject = views.read(made.name, "mask", t) > 127
            weighed += float(views.read(made.name, "weight", t)[subject].sum()) / 255
            covered += float(subject.sum())
        clip.append(torch.full((len(counts),), len(names)))
        names.append(made.name)
        index.append(torch.tensor(counts))
        seconds.append(made.seconds[counts].float())
    if not clip:
        return frames
    number, every = len(torch.cat(index)), len(frames.index)
    share = probability_of(WANTED * min(1.0, weighed / max(covered, 1.0) / COUNTS), number, every)
    probability = torch.cat(
        [frames.probability / frames.probability.sum() * (1 - share), torch.full((number,), share / number)]
    )
    return replace(
        frames, names=tuple(names), clip=torch.cat([frames.clip, *clip]), index=torch.cat([frames.index, *index]),
        seconds=torch.cat([frames.seconds, *seconds]), probability=probability,
    )  # fmt: skip


def probability_of(wanted: float, made: int, filmed: int) -> float:
    """Summed draw probability of `made` frames so that they take `wanted` of an epoch, in which every frame is drawn
    once and two thirds of the draws follow the probabilities (sampler.epoch); never more than half of the draws."""
    certain = made / (made + filmed) / 3
    return max(0.0, min(wanted, SHARE) - certain) * 1.5


def draws_of(frames: FrameSet, first: int) -> float:
    """Share of an epoch's draws that frames of the clips from number `first` on take."""
    made = frames.clip >= first
    return float(made.float().mean()) / 3 + 2 / 3 * float(frames.probability[made].sum())
