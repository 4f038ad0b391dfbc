"""Would the given cameras fit better if they were read in another way? The usual mistakes, tried on the outlines.

How well right cameras carve the subject out of its masks depends on how it moves: 42 to 77 % on the bench, and cameras
in reversed order reach 62 %. But under right cameras none of the usual mistakes fits better (by 0.021 at most), and
under a mistake what mends it does (by 0.077 at least, for those that docs/method.md 8 names).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.data.records import stands_still
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import rigid_inverse
from fourdgen.poses import given, hull_check

BETTER = 0.05  # overlap by which another reading convicts
COARSE = 32  # cells and pixels a side: other readings are many
FRAMES, LEAST, WINDOW = 20, 6, 40  # of all clips together, of each at least; pixels of a window's side
POINTS = 4000  # of which the subject's middle is found
SHIFTS = (0.1, -0.1, 1 / 3, -1 / 3, 0.5)  # of a clip
_FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
_UPSIDE_DOWN = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]))
_MIRROR = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))


CONVENTIONS: list[tuple[str, Callable[[Float[Tensor, "t 4 4"]], Float[Tensor, "t 4 4"]]]] = [
    ("with the other camera axes (OpenCV's y and z are OpenGL's negated)", lambda p: _FLIP @ p),
    ("inverted (world-to-camera for camera-to-world)", lambda p: _FLIP @ rigid_inverse(_FLIP @ p)),
    ("inverted and with the other camera axes", lambda p: rigid_inverse(p) @ _FLIP),
    ("with the pictures upside down", lambda p: _UPSIDE_DOWN @ p),
    ("mirrored (left-handed axes)", lambda p: _MIRROR @ p @ _MIRROR),
]


@dataclass(frozen=True)
class Filmed:
    """A clip with cameras: the masks of some frames in square windows, those `frames`, and the cameras of all frames;
    `K` in pixels of the windows."""

    masks: Float[Tensor, "n 1 s s"]
    frames: Tensor
    cam_from_world: Float[Tensor, "t 4 4"]
    K: Float[Tensor, "n 3 3"]


Poses = Mapping[str, Float[Tensor, "t 4 4"]]  # of every clip


def readings(clips: Poses) -> list[tuple[str, Poses]]:
    """The poses of all clips as other conventions would read the same files, or with the frames of all clips or of one
    of them in another order; and what has to be done to the cameras for that."""
    found: list[tuple[str, Poses]] = [
        (said, {name: moved(poses) for name, poses in clips.items()}) for said, moved in CONVENTIONS
    ]
    groups = [tuple(clips)] + ([(name,) for name in clips] if len(clips) > 1 else [])
    for names in groups:
        whose = f" of {names[0]}" if len(names) < len(clips) else ""
        orders: list[tuple[str, Poses]] = [
            (f"with the frames{whose} in reversed order", {name: clips[name].flip(0) for name in names})
        ]
        for share in SHIFTS:
            said = f"with the frames{whose} shifted by {share:+.0%} of the clip"
            orders.append((said, {name: _shifted(clips[name], share) for name in names}))
        found += [(said, {**clips, **ordered}) for said, ordered in orders]
    for first, second in combinations(clips, 2):
        swapped = {first: _stretched(clips[second], clips[first]), second: _stretched(clips[first], clips[second])}
        found.append((f"with {first} and {second} exchanged", {**clips, **swapped}))
    return found


def _shifted(poses: Float[Tensor, "t 4 4"], share: float) -> Float[Tensor, "t 4 4"]:
    """Every frame with the camera of one so much later; in a circle."""
    return poses.roll(-round(share * len(poses)), 0)


def _stretched(poses: Float[Tensor, "t 4 4"], other: Float[Tensor, "u 4 4"]) -> Float[Tensor, "u 4 4"]:
    return poses[torch.linspace(0, len(poses) - 1, len(other)).round().long()]


def fitting(clips: Mapping[str, Filmed], poses: Poses, seed: int = 0) -> Float[Tensor, "c"]:
    """How well the outlines of the hull that these poses carve fit each clip's (mean IoU); 0 for no hull at all."""
    chosen = {name: poses[name][clip.frames] for name, clip in clips.items()}
    K = torch.cat([clip.K for clip in clips.values()])
    masks = [(255 * mask[0]).byte().numpy() for clip in clips.values() for mask in clip.masks]
    every = torch.cat([*chosen.values()])
    world = given.root_from_input(every, *given.subject_ball(every, K, masks, seed, POINTS))
    views = [
        (clip.masks, Cameras(world.move_cameras(chosen[name]), clip.K, (clip.masks.shape[-1],) * 2))
        for name, clip in clips.items()
    ]
    return torch.tensor([shared for _, shared in hull_check.fitting(views, COARSE)])


def doubt_of(clips: Mapping[str, Filmed], seed: int = 0) -> str:
    """Why the given cameras of these clips may be wrong, and what to do; empty where nothing says that they are."""
    plain = {name: clip.cam_from_world for name, clip in clips.items()}
    own = fitting(clips, plain, seed)
    one_view = len(plain) == 1 and all(stands_still(poses[:, :3, :3]) for poses in plain.values())
    others = [] if one_view else [(float(fitting(clips, p, seed).mean()), said) for said, p in readings(plain)]
    best, said = max(others, default=(0.0, ""))
    if best > max(float(own.mean()) + BETTER, hull_check.FITS):
        return (
            f"the outlines fit the given cameras to {100 * float(own.mean()):.0f} %, and to {100 * best:.0f} % {said} "
            "(--cameras: mend it, or leave it out)"
        )
    wrong = [f"{name} to {100 * share:.0f} %" for name, share in zip(clips, own.tolist()) if share < hull_check.FITS]
    if wrong:
        return f"no shape fits the given cameras: {', '.join(wrong)} (--cameras: mend it, or leave it out)"
    return ""
