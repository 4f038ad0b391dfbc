"""Where the search for root poses begins: orbit-shaped camera paths, even in speed or as fast as the flow says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fourdgen.geometry.camera import look_at, orbit_eyes
from fourdgen.poses.compare import cosines, facing
from fourdgen.poses.level import level_turn
from fourdgen.poses.pictures import Pictures
from fourdgen.poses.turn import Turn

# A geometric series: 1.6 times apart, a start is at most 1.27 times off, which the fit and the line search mend.
SWEEPS = (34.0, 55.0, 88.0, 140.0, 222.0, 345.0)
ELEVATIONS = (0.0, 22.0)
PEAKS = (0.5, 0.75)  # shares of a clip after which a view that turns back turns
BACK_SWEEPS = (88.0, 140.0, 222.0)
SIGNS = {"cw": (1,), "ccw": (-1,), "auto": (1, -1)}  # of the azimuth's change


@dataclass(frozen=True)
class Start:
    """One hypothesis: a name for people, the azimuth of each frame and one elevation, in degrees."""

    name: str
    azimuth: Float[Tensor, "n"]
    elevation: float

    def rotations(self, pictures: Pictures, focal: float) -> Float[Tensor, "n 3 3"]:
        """cam_from_root of cameras that look at the subject's middle where the masks show it."""
        eyes = orbit_eyes(self.azimuth, self.elevation, 1.0)
        return facing(pictures.center, focal) @ look_at(eyes)[:, :3, :3]


def orbit_starts(
    turn: Turn,
    frames: Int[Tensor, "n"],
    time: Float[Tensor, "n"],
    sign: str = "auto",
    sweep: float | None = None,
    elevations: tuple[float, ...] = ELEVATIONS,
) -> list[Start]:
    """All starts of a clip whose view turns. `frames`, `time`: the pictures' frames in the clip, and when they
    were filmed.

    `sign`: "cw" (the subject turns clockwise seen from above: the azimuth grows), "ccw" or "auto". `sweep`: the whole
    turn in degrees if it is known.
    """
    signs = SIGNS[sign]
    even = _share(time)
    curve = turn.curve(frames)
    reach = float(curve.max() - curve.min())
    flow = curve / reach if reach > 1e-6 else None
    starts = []
    for elevation in elevations:
        for degrees in (sweep,) if sweep else SWEEPS:
            for s in signs:
                starts.append(Start(f"even {s * degrees:+.0f} at {elevation:.0f}", s * degrees * even, elevation))
            if flow is not None:
                forward = 1 if sign == "auto" or signs[0] * float(flow[-1]) >= 0 else -1
                starts.append(Start(f"flow {degrees:.0f} at {elevation:.0f}", forward * degrees * flow, elevation))
    return starts


def _share(time: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Times from 0 to 1."""
    return (time - time[0]) / max(1e-6, float(time[-1] - time[0]))


def returning_starts(
    time: Float[Tensor, "n"], sign: str, elevations: tuple[float, ...], sweep: float | None = None
) -> list[Start]:
    """Starts of a view that turns, turns back at some time and goes on at the same speed. `sign`, `sweep`: see
    `orbit_starts`; the sign is that of the way there, the sweep lies between its ends."""
    time = _share(time)
    starts = []
    for elevation in elevations:
        for degrees in (sweep,) if sweep else BACK_SWEEPS:
            for peak in PEAKS:
                there = (peak - (time - peak).abs()) / peak
                for s in SIGNS[sign]:
                    name = f"back {s * degrees:+.0f} at {elevation:.0f} after {peak:.0%}"
                    starts.append(Start(name, s * degrees * there, elevation))
    return starts


def azimuths(rotations: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n"]:
    """Unwrapped azimuth (radians) of the viewing directions in the root frame."""
    toward = rotations[:, 2]  # the camera's axis in the root frame; the eye stands at its other end
    angle = torch.atan2(-toward[:, 0], toward[:, 2])
    step = torch.diff(angle)
    step = step - 2 * math.pi * torch.round(step / (2 * math.pi))
    return torch.cat([angle[:1], angle[:1] + step.cumsum(0)])


def about_vertical(angle: Float[Tensor, "n"]) -> Float[Tensor, "n 3 3"]:
    """Turns of the root frame about its y axis that move a camera's azimuth by `angle` (radians) when put behind its
    rotation: cam_from_root @ about_vertical(angle).
    """
    c, s, o = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([c, o, s, o, o + 1, o, -s, o, c], -1).reshape(-1, 3, 3)


def stretched(rotations: Float[Tensor, "n 3 3"], factor: float) -> Float[Tensor, "n 3 3"]:
    """The same path with its azimuths scaled about their mean."""
    angle = azimuths(rotations)
    return rotations @ about_vertical((factor - 1) * (angle - angle.mean()))


def tidied(
    rotations: Float[Tensor, "n 3 3"], center: Float[Tensor, "n 2"], focal: float, time: Float[Tensor, "n"],
    around: int = 7, up: int = 4,
) -> Float[Tensor, "n 3 3"]:  # fmt: skip
    """The orbit next to a path: no roll, azimuth a line and `around` cosines of time (with more than one, a parabola,
    too: cosines are flat at the ends), elevation `up` cosines.

    What a fit reads from a body that swings is in the roll and in the quick part of the elevation, and stays there
    once the model has grown around it. `center`: where the subject's middle is seen, in sides.
    """
    towards = facing(center, focal)
    looking = towards.transpose(1, 2) @ rotations
    looking = looking @ level_turn(looking)[0]
    angle, height = azimuths(looking), torch.asin(looking[:, 2, 1].clamp(-1, 1))
    line = (time - time.mean()) / (time[-1] - time[0]).clamp_min(1e-6)
    steady = torch.stack([line, line**2] if around > 1 else [line], 1)
    angle = _nearest_curve(torch.cat([cosines(time, min(around, len(time))), steady], 1), angle)
    height = _nearest_curve(cosines(time, min(up, len(time))), height)
    eyes = orbit_eyes(torch.rad2deg(angle), torch.rad2deg(height), 1.0)
    return towards @ look_at(eyes)[:, :3, :3]


def _nearest_curve(basis: Float[Tensor, "n k"], values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Least squares; a little damped, for a line and a parabola are nearly sums of cosines."""
    wide, wanted = basis.double(), values.double()
    system = wide.T @ wide + 1e-6 * len(wide) * torch.eye(wide.shape[1], dtype=torch.float64)
    return (wide @ torch.linalg.solve(system, wide.T @ wanted)).to(values.dtype)
