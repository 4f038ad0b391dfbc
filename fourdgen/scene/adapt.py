"""What of a scene goes out, and how it stands there: clip, frames, time, speed, confidence, axes, scale, origin.

All of it turns a scene into another scene, so that no export format has to know any of these options: a format writes
the clips' own frames at the clips' own seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3, dual_quat, dual_quat_parts, quat_from_matrix, quat_multiply, quat_rotate
from fourdgen.report import FourdgenError
from fourdgen.scene.bones import continuous_signs
from fourdgen.scene.entries import clip_of
from fourdgen.scene.files import extent
from fourdgen.scene.looping import meets_itself
from fourdgen.scene.motion import SampledBones
from fourdgen.scene.options import Adapt, check, chosen, moment_of
from fourdgen.scene.scene4d import Scene4D, SceneClip
from fourdgen.scene.surfels import Surfels

# Rotations that bring the root frame's up (-y) to the axis named, and what faces the first camera (-z) to where the
# programs that use that axis expect a front: +z where y is up (glTF), -y where z is up (Blender).
_TURNS = {
    "-y": [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]],
    "y": [[1.0, 0, 0], [0, -1, 0], [0, 0, -1]],
    "z": [[1.0, 0, 0], [0, 0, 1], [0, -1, 0]],
}


def adapted(scene: Scene4D, adapt: Adapt, up: str = "-y") -> Scene4D:
    """The scene that was asked for. `up` is the axis of the format where the options name none: -y (the root frame's
    own), y or z. Raises FourdgenError for a clip, time or frames that the scene does not have."""
    check(adapt)
    if adapt.clip is not None or moment_of(adapt.time) is not None:
        kept = clip_of(scene, adapt.clip or scene.reference)
        scene = replace(scene, clips={kept.name: kept}, reference=kept.name)
        if isinstance(scene.motion, SampledBones):
            seconds = {kept.name: scene.motion.seconds[kept.name]}
            scene = replace(
                scene,
                motion=replace(
                    scene.motion, seconds=seconds, dual_quats={kept.name: scene.motion.dual_quats[kept.name]}
                ),
            )
    if adapt.crop_confidence > 0:
        keep = scene.surfels.confidence >= adapt.crop_confidence
        if not bool(keep.any()):
            best = float(scene.surfels.confidence.max())
            raise FourdgenError(
                f"--crop-confidence {adapt.crop_confidence:g} leaves nothing", f"the highest confidence is {best:.2f}"
            )
        scene = replace(scene, surfels=scene.surfels[keep])
    if adapt.frames or adapt.fps or adapt.time or adapt.speed != 1:
        scene = retimed(scene, adapt)
    return placed(scene, adapt, up)


# --------------------------------------------------------------------------------------------------------------
# Time


@dataclass(frozen=True)
class _Keys:
    """Frames of a clip to be: when they are shown, which source time they show; `jump`: the last key is the first
    frame again and must not be reached by going back through the whole clip."""

    shown: list[float]
    source: list[float]
    jump: bool = False


def retimed(scene: Scene4D, adapt: Adapt) -> Scene4D:
    """The scene with the frames and times that were asked for, in every clip; cameras are the nearest frame's."""
    clips: dict[str, SceneClip] = {}
    seconds, samples = {}, {}
    for name, clip in scene.clips.items():
        keys = _keys(scene, clip, adapt)
        source = torch.tensor(keys.source, dtype=torch.float64)
        nearest = (source[:, None] - clip.seconds.double()[None]).abs().argmin(1)
        clips[name] = replace(
            clip,
            seconds=torch.tensor(keys.shown, dtype=torch.float64).float(),
            frame_ids=clip.frame_ids[nearest],
            cameras=Cameras(clip.cameras.cam_from_world[nearest], clip.cameras.K[nearest], clip.cameras.size),
        )
        if isinstance(scene.motion, SampledBones):
            shown, at = _with_middles(keys)
            poses = torch.stack([scene.motion.bones_at(name, time) for time in at])
            seconds[name], samples[name] = torch.tensor(shown).float(), continuous_signs(poses)
    motion = scene.motion
    if isinstance(motion, SampledBones):
        motion = replace(motion, seconds=seconds, dual_quats=samples)
    return replace(scene, clips=clips, motion=motion)


def _keys(scene: Scene4D, clip: SceneClip, adapt: Adapt) -> _Keys:
    moment = moment_of(adapt.time)
    first, last = float(clip.seconds[0]), float(clip.seconds[-1])
    if moment is not None:
        if not first - 1e-4 <= moment <= last + 1e-4:
            raise FourdgenError(
                f"--time {adapt.time}: clip {clip.name} runs from {first:g} to {last:g} s", "choose a time in it"
            )
        return _Keys([moment], [moment])
    index = chosen(adapt.frames, len(clip.seconds))
    if not index:
        raise FourdgenError(
            f"--frames {adapt.frames}: clip {clip.name} has frames 0 to {len(clip.seconds) - 1}", "choose some of them"
        )
    source = clip.seconds.double()[index].tolist()
    if adapt.fps is not None:
        count = math.floor((source[-1] - source[0]) / adapt.speed * adapt.fps + 1e-4) + 1
        source = [source[0] + k * adapt.speed / adapt.fps for k in range(count)]
    shown = [source[0] + (time - source[0]) / adapt.speed for time in source]
    if adapt.time != "loop" or len(source) < 2:
        return _Keys(shown, source)
    gap = (shown[-1] - shown[0]) / (len(shown) - 1)
    if meets_itself(scene, replace(clip, seconds=torch.tensor(source))):
        return _Keys([*shown, shown[-1] + gap], [*source, source[0]], jump=True)
    back = [2 * shown[-1] - time for time in shown[-2::-1]]
    return _Keys(shown + back, source + source[-2::-1])


def _with_middles(keys: _Keys) -> tuple[list[float], list[float]]:
    """Times shown and source times of the keys, with one further sample between each two."""
    shown, source = [keys.shown[0]], [keys.source[0]]
    for i in range(1, len(keys.shown)):
        if not (keys.jump and i == len(keys.shown) - 1):
            shown.append(0.5 * (keys.shown[i - 1] + keys.shown[i]))
            source.append(0.5 * (keys.source[i - 1] + keys.source[i]))
        shown.append(keys.shown[i])
        source.append(keys.source[i])
    return shown, source


# --------------------------------------------------------------------------------------------------------------
# Place


def placed(scene: Scene4D, adapt: Adapt, up: str) -> Scene4D:
    """The scene in other axes, another size, around another origin."""
    if adapt.origin == "input":
        if scene.world_from_input is None:
            raise FourdgenError("--origin input: this scene's cameras were found, not given", "use feet or centre")
        return moved(scene, scene.world_from_input.inverse())
    rotation = torch.tensor(_TURNS[adapt.up or up], dtype=torch.float64)
    placing = Sim3(adapt.scale, rotation, torch.zeros(3, dtype=torch.float64))
    if adapt.origin:
        placing = replace(placing, translation=-adapt.scale * rotation @ _origin(scene, adapt.origin))
    if torch.equal(placing.matrix(), torch.eye(4, dtype=torch.float64)):
        return scene
    return moved(scene, placing)


def _origin(scene: Scene4D, origin: str) -> Float[Tensor, "3"]:
    """Middle of what the reference clip shows over all its time; for feet, at the height of the lowest centre of a
    surfel that can be seen (opacity above 0.1), without strays: those farther out than 1.1 times the radius."""
    clip = scene.clips[scene.reference]
    low, high = torch.full((3,), math.inf), torch.full((3,), -math.inf)
    for seconds in clip.seconds.tolist():
        state = scene.at(clip.name, seconds)
        center, radius = extent(state)
        solid = (torch.sigmoid(state.opacity) > 0.1) & ((state.means - center).norm(dim=1) <= 1.1 * radius)
        points = state.means[solid] if bool(solid.any()) else state.means
        low, high = torch.minimum(low, points.amin(0)), torch.maximum(high, points.amax(0))
    middle = 0.5 * (low + high)
    if origin == "feet":
        middle[1] = high[1]  # y points down
    return middle.double()


def moved(scene: Scene4D, target_from_root: Sim3) -> Scene4D:
    """The same scene in another frame: `target = target_from_root(root)`. It looks the same to moved cameras."""
    spin = quat_from_matrix(target_from_root.rotation.double()).float()
    surfels = moved_surfels(scene.surfels, target_from_root)
    clips = {
        name: replace(
            clip,
            cameras=Cameras(
                target_from_root.move_cameras(clip.cameras.cam_from_world), clip.cameras.K, clip.cameras.size
            ),
        )
        for name, clip in scene.clips.items()
    }
    motion = scene.motion
    if isinstance(motion, SampledBones):
        # x' = S x carries the motion D to S D inverse(S): R' = s R inverse(s), and t' = S(t + R c) - R' S(c) for any c.
        zero = target_from_root.apply(torch.zeros(3, dtype=torch.float64)).float()
        poses = {}
        for name, samples in motion.dual_quats.items():
            rotation, translation = dual_quat_parts(samples)
            turned = quat_multiply(
                quat_multiply(spin.expand_as(rotation), rotation), _inverse(spin).expand_as(rotation)
            )
            shifted = target_from_root.apply(translation) - quat_rotate(turned, zero.expand_as(translation))
            poses[name] = dual_quat(turned, shifted)
        motion = replace(motion, dual_quats=poses, centers=target_from_root.apply(motion.centers))
    world = scene.world_from_input
    return replace(
        scene,
        surfels=surfels,
        clips=clips,
        motion=motion,
        world_from_input=None if world is None else target_from_root.compose(world),
    )


def moved_surfels(surfels: Surfels, target_from_root: Sim3) -> Surfels:
    """Canonical surfels in another frame; harmonics of degree 1 turn with them, because their directions do."""
    spin = quat_from_matrix(target_from_root.rotation.double()).float()
    sh = surfels.sh
    if sh.shape[1] > 1:
        sh = turned_degree_one(sh, target_from_root.rotation.float().expand(len(surfels), 3, 3))
    return replace(
        surfels,
        means=target_from_root.apply(surfels.means),
        quats=quat_multiply(spin.expand_as(surfels.quats), surfels.quats),
        log_scales=surfels.log_scales + math.log(target_from_root.scale),
        sh=sh,
    )


def turned_degree_one(sh: Float[Tensor, "n 4 3"], rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 4 3"]:
    """Harmonics that give along R d what `sh` gives along d."""
    # Degree 1 is linear in the direction: colour = a . d = (R a) . (R d), with a = (-sh3, -sh1, sh2) up to a factor.
    linear = torch.stack([-sh[:, 3], -sh[:, 1], sh[:, 2]], 1)
    x, y, z = (rotation @ linear).unbind(1)
    return torch.stack([sh[:, 0], -y, z, -x], 1)


def _inverse(quat: Float[Tensor, "4"]) -> Float[Tensor, "4"]:
    return quat * quat.new_tensor([1.0, -1.0, -1.0, -1.0])
