"""A camera path that somebody suggests, such as a network: one more start of the search (docs/method.md section 8)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from fourdgen.data.capture import Capture, stack
from fourdgen.poses.hypotheses import azimuths, tidied
from fourdgen.poses.level import level_turn
from fourdgen.poses.pictures import Pictures, mask_boxes, spread
from fourdgen.priors.geometry import Geometry
from fourdgen.report import Reporter

NAME = "suggested"
MOST_FRAMES = 48  # of a clip that are shown at once
UNSURE = 0.5  # of the median confidence: frames below are left to their neighbours


@dataclass(frozen=True)
class Suggested:
    """Turns of the cameras of some frames of a clip, ascending, in a frame of their own: which way its axes point does
    not matter. `focal`, in longer sides of the picture, is told and not used: root_pose finds it."""

    frames: Tensor
    rotation: Float[Tensor, "n 3 3"]
    focal: float | None = None
    name: str = NAME

    def turn(self) -> float:
        """Degrees by which the view turns about the subject's vertical, positive where the subject turns clockwise."""
        angle = azimuths(self.rotation @ level_turn(self.rotation)[0])
        return float(torch.rad2deg(angle[-1] - angle[0]))

    def rotations(self, pictures: Pictures, focal: float) -> Float[Tensor, "n 3 3"]:
        """cam_from_root of the pictures' cameras: by slerp, levelled, without what is too quick for a camera."""
        path = Slerp(self.frames.numpy(), Rotation.from_matrix(self.rotation.double().numpy()))
        between = pictures.frame.clamp(int(self.frames[0]), int(self.frames[-1])).numpy()
        rotation = torch.from_numpy(path(between).as_matrix()).to(pictures.center.dtype)
        return tidied(rotation, pictures.center, focal, pictures.time)

    def obeys(self, turn: str, sweep: float | None) -> bool:
        """Whether it is a start at all, given what the user says of the turn; a known sweep overrules it."""
        sign = {"cw": 1, "ccw": -1}.get(turn, 0)
        return not sweep and (sign == 0 or sign * self.turn() > 0)


def suggest(
    geometry: Geometry, rgb: UInt8[np.ndarray, "t h w 3"], mask: UInt8[np.ndarray, "t h w"]
) -> Suggested | None:
    """What the geometry says of a clip's frames; None where that is nothing: fewer than three frames show the subject,
    or what it says is no number.

    Only turns are taken. Where the subject stands in the picture, and how far, its outline tells better.
    """
    shown = torch.from_numpy(np.flatnonzero(~np.isnan(mask_boxes(mask)[:, 0])))
    if len(shown) < 3:
        return None
    frames = shown[spread(len(shown), MOST_FRAMES)]
    said = geometry.cameras(rgb[frames.numpy()], mask[frames.numpy()])
    rotation, sure = said.cam_from_world[:, :3, :3], said.confidence
    if not bool(torch.isfinite(rotation).all() & torch.isfinite(sure).all()):
        return None
    kept = sure >= UNSURE * sure.median()
    focal = None if said.K is None else float(said.K[kept, 0, 0].median()) / max(rgb.shape[1:3])
    return Suggested(frames[kept], rotation[kept], focal) if int(kept.sum()) >= 3 else None


def suggest_all(geometry: Geometry, capture: Capture, names: Iterable[str], report: Reporter) -> dict[str, Suggested]:
    """What the geometry says of the clips called so; without those of which it says nothing."""
    out = {}
    for name in names:
        path = suggest(geometry, *(t.numpy() for t in stack(capture, name)))
        if path is None:
            report.warn(f"{name}: neural geometry gives no cameras, so the search goes on without")
            continue
        fov = None if path.focal is None else math.degrees(2 * math.atan(0.5 / path.focal))
        seen = "" if fov is None else f" and a field of view of {fov:.0f} degrees"
        report.emit("note", text=f"{name}: neural geometry says a turn of {path.turn():+.0f} degrees{seen}",
                    clip=name, turn=path.turn(), fov=fov)  # fmt: skip
        out[name] = path
    return out
