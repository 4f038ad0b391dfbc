"""Shots: where the camera stands and what time it is, picture by picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.data.cameras_io import CameraEntry
from fourdgen.geometry.camera import Cameras, intrinsics, look_at, orbit_eyes
from fourdgen.playback.request import parse_speed, parse_time
from fourdgen.report import FourdgenError
from fourdgen.scene.entries import camera_of, moment_of
from fourdgen.scene.files import extent
from fourdgen.scene.looping import frame_time, meets_itself
from fourdgen.scene.scene4d import Scene4D, SceneClip

FOV_DEGREES = 35.0  # of made-up cameras: long enough that the subject is not distorted
MARGIN = 0.86  # share of the picture that the subject may fill
TURN_SECONDS = 6.0  # a full turn takes about this long


@dataclass(frozen=True)
class Shot:
    """One picture: one camera in the root frame, and the time of a clip."""

    camera: Cameras
    clip: str
    seconds: float


@dataclass(frozen=True)
class Motion:
    """How a clip's time runs in a video: in a loop or frozen, and how fast."""

    clip: SceneClip
    frozen: float | None = None  # seconds of the clip
    speed: float = 1.0
    back_and_forth: bool = False  # for a motion whose end does not meet its beginning

    @property
    def period(self) -> float:
        """Seconds of video until the motion is where it was."""
        return self.length * (2 if self.back_and_forth else 1) / self.speed

    @property
    def length(self) -> float:
        """Seconds of the clip from its first frame to the end of its last (to its last where it turns back there)."""
        between = frame_time(self.clip)
        span = float(self.clip.seconds[-1] - self.clip.seconds[0])
        return max(span + (0 if self.back_and_forth else between), between)

    def at(self, video_seconds: float) -> float:
        """Seconds of the clip at a time of the video."""
        if self.frozen is not None:
            return self.frozen
        passed = video_seconds * self.speed % (self.length * (2 if self.back_and_forth else 1))
        if self.back_and_forth and passed > self.length:
            passed = 2 * self.length - passed
        return float(self.clip.seconds[0]) + passed


def motion_of(scene: Scene4D, clip: SceneClip, time: str, speed: float) -> Motion:
    """The motion that `--time` asks for: loop, or freeze:SECONDS. Raises FourdgenError for anything else."""
    frozen, speed = parse_time(time), parse_speed(speed)
    if frozen is None:
        return Motion(clip, speed=speed, back_and_forth=not meets_itself(scene, clip))
    first, last = float(clip.seconds[0]), float(clip.seconds[-1])
    if not first - 0.005 <= frozen <= last + 0.005:  # `info` and people round to hundredths
        raise FourdgenError(f"--time {time}: clip {clip.name} runs from {first:g} to {last:g} s", "choose a time in it")
    return Motion(clip, frozen=frozen, speed=speed)


@dataclass(frozen=True)
class Frame:
    """What the pictures of a made-up camera path are to hold: sampled points of the moving subject and their middle."""

    points: Float[Tensor, "n 3"]
    center: Float[Tensor, "3"]

    def distance(self, directions: Float[Tensor, "c 3"], size: tuple[int, int]) -> float:
        """The nearest distance from which cameras in these directions (unit, from the centre) see all points."""
        cameras = Cameras(look_at(directions), intrinsics(FOV_DEGREES, size).expand(len(directions), 3, 3), size)
        rotation = cameras.cam_from_world[:, :3, :3]
        x, y, z = ((self.points - self.center) @ rotation.transpose(1, 2)).unbind(-1)
        focal = float(cameras.K[0, 0, 0])
        # |f x / (z + d)| <= half the width x margin, solved for d; the same for the height.
        across = focal * x.abs() / (0.5 * size[0] * MARGIN) - z
        down = focal * y.abs() / (0.5 * size[1] * MARGIN) - z
        needed = torch.maximum(across, down)
        nearest = (-z).max() + 0.05 * float(self.points.std())  # never inside the subject
        return float(torch.maximum(needed.max(), nearest))


def framing(scene: Scene4D, motion: Motion) -> Frame:
    """The moving subject without its outermost percent (a few stray surfels must not shrink it in the picture)."""
    times = [motion.frozen] if motion.frozen is not None else torch.linspace(0, motion.length * 0.999, 12).tolist()
    begin = 0.0 if motion.frozen is not None else float(motion.clip.seconds[0])
    clouds = []
    for seconds in times:
        state = scene.at(motion.clip.name, begin + float(seconds))
        visible = torch.sigmoid(state.opacity) > 0.1
        middle, radius = extent(state)
        near = (state.means - middle).norm(dim=1) <= 1.1 * radius
        cloud = state.means[visible & near]
        clouds.append((cloud if len(cloud) else state.means)[:: max(1, len(state.means) // 2000)])
    points = torch.cat(clouds)
    return Frame(points, 0.5 * (points.amin(0) + points.amax(0)))


def first_azimuth(clip: SceneClip, center: Float[Tensor, "3"]) -> float:
    """Azimuth (degrees) from which a clip's first camera looks, so that a turn begins with what was filmed."""
    x, _, z = (clip.cameras.centers()[0] - center).tolist()
    return math.degrees(math.atan2(x, -z))


def eyes_of(frame: Frame, azimuths: Tensor, elevations: Tensor, size: tuple[int, int]) -> Cameras:
    """Cameras around the subject, all at the distance from which the whole turn fits."""
    directions = orbit_eyes(azimuths, elevations, 1.0)
    distance = frame.distance(directions[:: max(1, len(directions) // 48)], size)
    poses = look_at(directions * distance + frame.center, frame.center)
    return Cameras(poses, intrinsics(FOV_DEGREES, size).expand(len(poses), 3, 3), size)


def orbit(scene: Scene4D, motion: Motion, size: tuple[int, int], fps: float, elevation: float) -> list[Shot]:
    """One full turn, during which the motion runs a whole number of times: the video is a loop in both."""
    seconds = TURN_SECONDS / motion.speed
    if motion.frozen is None:
        seconds = motion.period * max(1, round(TURN_SECONDS / motion.period))
    count = max(2, round(seconds * fps))
    frame = framing(scene, motion)
    share = torch.arange(count) / count
    azimuths = first_azimuth(motion.clip, frame.center) + 360 * share
    cameras = eyes_of(frame, azimuths, torch.full((count,), elevation), size)
    return [Shot(cameras[i], motion.clip.name, motion.at(float(share[i]) * seconds)) for i in range(count)]


def spiral(scene: Scene4D, motion: Motion, size: tuple[int, int], fps: float, elevation: float) -> list[Shot]:
    """Two turns that rise from below `elevation` to high above the subject and come back."""
    seconds = 2 * TURN_SECONDS / motion.speed
    if motion.frozen is None:
        seconds = motion.period * max(1, round(2 * TURN_SECONDS / motion.period))
    count = max(2, round(seconds * fps))
    frame = framing(scene, motion)
    share = torch.arange(count) / count
    azimuths = first_azimuth(motion.clip, frame.center) + 720 * share
    heights = (elevation + 20 - 30 * torch.cos(2 * math.pi * share)).clamp(-80, 80)
    cameras = eyes_of(frame, azimuths, heights, size)
    return [Shot(cameras[i], motion.clip.name, motion.at(float(share[i]) * seconds)) for i in range(count)]


def bullet(scene: Scene4D, motion: Motion, size: tuple[int, int], fps: float, elevation: float) -> list[Shot]:
    """Bullet time: the motion plays to the middle of the clip, stands still for one full turn, and plays on."""
    clip = motion.clip
    span = float(clip.seconds[-1] - clip.seconds[0])
    middle = motion.frozen if motion.frozen is not None else float(clip.seconds[0]) + span / 2
    playing = max(1, round(span / motion.speed * fps))
    turning = max(2, round(TURN_SECONDS * fps))
    before = round(playing * (middle - float(clip.seconds[0])) / max(span, 1e-6))
    times = np.concatenate(
        [
            np.linspace(float(clip.seconds[0]), middle, before, endpoint=False),
            np.full(turning, middle),
            np.linspace(middle, float(clip.seconds[-1]), max(1, playing - before)),
        ]
    )
    # The turn starts and ends gently: a camera that jumps into motion looks like a fault.
    share = np.concatenate(
        [np.zeros(before), np.linspace(0, 1, turning, endpoint=False), np.ones(len(times) - before - turning)]
    )
    eased = torch.from_numpy(share - np.sin(2 * math.pi * share) / (2 * math.pi)).float()
    frame = framing(scene, Motion(clip))
    azimuths = first_azimuth(clip, frame.center) + 360 * eased
    cameras = eyes_of(frame, azimuths, torch.full((len(times),), elevation), size)
    return [Shot(cameras[i], clip.name, float(times[i])) for i in range(len(times))]


def source(clip: SceneClip, size: tuple[int, int] | None) -> list[Shot]:
    """Every frame of a clip, seen by its own camera."""
    cameras = clip.cameras if size is None else clip.cameras.resized(size)
    return [Shot(cameras[i], clip.name, float(clip.seconds[i])) for i in range(len(clip.seconds))]


def from_entries(
    scene: Scene4D, entries: list[CameraEntry], motion: Motion, size: tuple[int, int] | None, fps: float
) -> list[Shot]:
    """One shot per entry, in their order. Entries without a frame number play `motion` at `fps`."""
    shots = []
    for number, entry in enumerate(entries):
        name, seconds = moment_of(scene, entry, motion.clip.name)
        camera = camera_of(scene, entry)
        if seconds is None:
            seconds = motion.at(number / fps)
        shots.append(Shot(camera if size is None else camera.resized(size), name, seconds))
    return shots
