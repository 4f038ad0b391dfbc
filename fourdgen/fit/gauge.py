"""What is the camera's motion and what is the body's, once both have been found (docs/method.md section 8).

A body that turns slowly before a camera that stands looks like a camera that turns about a body that stands: pictures
do not tell them apart, so training leaves them mixed as they came. Bodies swing about a mean and cameras travel, so
what the whole body does slowly is handed to the cameras. Filmed pictures stay exactly as they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import (
    dual_quat,
    dual_quat_right,
    nearest_rotation,
    quat_from_matrix,
    quat_log,
    rigid,
    rigid_inverse,
    so3_exp,
)
from fourdgen.scene.bones import ClipTime, continuous_signs
from fourdgen.scene.motion import SampledBones
from fourdgen.scene.scene4d import Scene4D

SWING = 4 / 3  # seconds: a body swings faster than that
ROUNDS = 6  # of reweighting; limbs have hardly any weight from the second on
MOST = 2000  # surfels that are followed


@dataclass(frozen=True)
class Drift:
    """What a body does slowly: turned about `center` by slow cosines of time, and shifted. Root units, seconds."""

    first: float
    lasts: float
    center: Float[Tensor, "3"]
    turns: Float[Tensor, "k 3"]  # rotation vectors
    shifts: Float[Tensor, "k 3"]

    def at(self, seconds: Float[Tensor, "s"]) -> Float[Tensor, "s 4 4"]:
        """The drift at times, held at the ends: where it has brought a body that would else only swing."""
        waves = _cosines(seconds, self.first, self.lasts, len(self.turns))
        turned = so3_exp(waves @ self.turns)
        return rigid(turned, self.center - turned @ self.center + waves @ self.shifts)


def settled(
    scene: Scene4D, times: Mapping[str, ClipTime], fixed: Collection[str]
) -> tuple[Scene4D, dict[str, Float[Tensor, "t 4 4"]]]:
    """The scene with slow motion handed to the cameras, and each clip's drift at its frames (`old_from_new`).

    Clips that show one motion are moved as one. A motion of which a clip is `fixed` (its cameras are given, or stand
    still) stays as it is, and so does one too short to tell slow from fast.
    """
    assert isinstance(scene.motion, SampledBones)
    kept = {times[name].code_of for name in fixed}
    clips, poses, drifts = dict(scene.clips), dict(scene.motion.dual_quats), {}
    for code in sorted({time.code_of for time in times.values()} - kept):
        drift = drift_of(scene, times, code)
        if drift is None:
            continue
        for name, time in times.items():
            if time.code_of != code:
                continue
            clip = scene.clips[name]
            drifts[name] = drift.at(time.rate * clip.seconds.double() + time.offset)
            cam_from_root = (clip.cameras.cam_from_world.double() @ drifts[name]).float()
            clips[name] = replace(clip, cameras=Cameras(cam_from_root, clip.cameras.K, clip.cameras.size))
            sampled = time.rate * scene.motion.seconds[name].double() + time.offset
            poses[name] = _before(rigid_inverse(drift.at(sampled)), scene.motion.dual_quats[name])
    return replace(scene, clips=clips, motion=replace(scene.motion, dual_quats=poses)), drifts


def drift_of(scene: Scene4D, times: Mapping[str, ClipTime], code: str) -> Drift | None:
    """The slow part of a body's motion as a whole: of the rigid motion that most of its surfels share. Its times are
    those of clip `code`."""
    seconds, shown = _moments(scene, times, code)
    lasts = float(seconds[-1] - seconds[0])
    waves = min(len(seconds), 1 + round(2 * lasts / SWING))
    if waves < 2:
        return None
    some = scene.surfels.opacity.argsort(descending=True, stable=True)[:MOST]
    states = torch.stack([scene.at(name, own).means[some].double() for name, own in shown])
    rotation, translation = body_path(states)
    mean = nearest_rotation(rotation.sum(0))
    center = states.mean((0, 1))
    at_rest = mean.T @ (center - translation.mean(0))
    places = rotation @ at_rest + translation
    basis = _cosines(seconds, float(seconds[0]), lasts, waves)
    turns = quat_log(quat_from_matrix(rotation @ mean.T))
    slow = torch.linalg.lstsq(basis, torch.cat([turns, places - places.mean(0)], 1)).solution
    return Drift(float(seconds[0]), lasts, places.mean(0), slow[:, :3], slow[:, 3:])


def _moments(
    scene: Scene4D, times: Mapping[str, ClipTime], code: str
) -> tuple[Float[Tensor, "t"], list[tuple[str, float]]]:
    """When the motion of clip `code` was filmed, on that clip's clock, and the clip and time that show each moment: its
    own frames, and those of synchronised clips before and after them."""
    seconds = scene.clips[code].seconds
    filmed = [(float(at), code, float(at)) for at in seconds]
    for name, time in times.items():
        if time.code_of == code and name != code:
            own = scene.clips[name].seconds
            moments = time.rate * own.double() + time.offset
            beyond = (moments < float(seconds[0])) | (moments > float(seconds[-1]))
            filmed += [(float(at), name, float(t)) for at, t in zip(moments[beyond], own[beyond], strict=True)]
    filmed.sort()
    return torch.tensor([at for at, _, _ in filmed], dtype=torch.float64), [(name, own) for _, name, own in filmed]


def body_path(states: Float[Tensor, "t n 3"]) -> tuple[Float[Tensor, "t 3 3"], Float[Tensor, "t 3"]]:
    """Rigid motions (rotation, translation) from a mean shape to each state, by points that keep to it.

    Procrustes about the mean of the states brought together; points weigh less the more they move beside that
    (Cauchy weights), so that limbs do not turn the trunk.
    """
    mean, weight = states[len(states) // 2], torch.ones(states.shape[1], dtype=states.dtype)
    for _ in range(ROUNDS):
        share = weight / weight.sum()
        middle, middles = share @ mean, torch.einsum("n,tnk->tk", share, states)
        spread = torch.einsum("n,tni,nj->tij", share, states - middles[:, None], mean - middle)
        rotation = nearest_rotation(spread)
        translation = middles - rotation @ middle
        together = (states - translation[:, None]) @ rotation
        mean = together.mean(0)
        beside = (together - mean).square().sum(-1).mean(0).sqrt()
        weight = 1 / (1 + (beside / beside.median().clamp_min(1e-6)) ** 2)
    return rotation, translation


def _cosines(seconds: Float[Tensor, "s"], first: float, lasts: float, count: int) -> Float[Tensor, "s k"]:
    """Cosines that are slow and even at both ends of a clip."""
    share = ((seconds.double() - first) / max(lasts, 1e-9)).clamp(0, 1)
    return torch.cos(math.pi * share[:, None] * torch.arange(count))


def _before(after: Float[Tensor, "s 4 4"], bones: Float[Tensor, "s b 8"]) -> Float[Tensor, "s b 8"]:
    """Bone motions, each followed by the rigid motion `after` of its time."""
    then = dual_quat(quat_from_matrix(after[:, :3, :3]), after[:, :3, 3])
    moved = (dual_quat_right(bones.double()) @ then[:, None, :, None])[..., 0]
    return continuous_signs(moved.to(bones.dtype))
