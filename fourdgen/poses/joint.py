"""All clips together: one model, every clip's poses and focal length, body motion beside them (stage root_pose)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.poses.compare import Fit, Pace, cosines, hats
from fourdgen.poses.course import Course, of_clips
from fourdgen.poses.given import root_scale
from fourdgen.poses.pictures import Pictures
from fourdgen.poses.register import settle_together


@dataclass(frozen=True)
class JointSettings:
    """Steps of each phase; a step draws `batch` frames."""

    surfels: int = 2000
    held: int = 100  # poses held, while the model settles
    whole: int = 60  # each clip but the first turns as a whole
    bent: int = 250  # and the body may bend: what two motions differ by must be in place before poses are free
    curve: int = 200  # poses bend in a few cosines, focal lengths move
    free: int = 200  # every frame for itself, smoothly
    waves: int = 7
    knots: int = 64  # a clip of more frames moves linearly between so many
    batch: int = 8
    focal_rate: float = 0.004  # of log focal length a step; 0 where the user gave it
    stiff: float = 0.05  # weight of the squared shifts of the body's nodes
    level: float = 0.5  # weight of the horizon once every path is free
    smooth: float = 30.0  # weight of the cameras' acceleration in time: what is quick is the body's
    seed: int = 0

    @property
    def total(self) -> int:
        return self.held + self.whole + self.bent + self.curve + self.free


def refine_together(
    pictures: Pictures, rotation: Float[Tensor, "n 3 3"], place: Float[Tensor, "n 3"], focal: Float[Tensor, "c"],
    settings: JointSettings, still: frozenset[int] = frozenset(), held: frozenset[int] = frozenset(),
    done: Callable[[int], None] = lambda steps: None, courses: Mapping[int, Course | None] | None = None,
    lenses: frozenset[int] = frozenset(),
) -> Fit:  # fmt: skip
    """A fit of all clips from first poses in one root frame. `done(steps)` is told after every phase.

    `still`: numbers of clips whose view does not turn; their rotations move with the clip as a whole, or not at all.
    `held`: numbers of clips whose cameras are known: rotations, places and focal lengths stay as they come, and with
    them the root frame.
    `courses`: by a clip's number what the user said of its turn, to which the paths of all other clips are held.
    `lenses`: numbers of clips whose focal lengths stay as they come.
    """
    focal_rate = 0.0 if len(still) == len(focal) else settings.focal_rate  # one view has no perspective to measure
    whole = 0.002 if len(focal) > 1 else 0.0
    fit = Fit(pictures, rotation, focal, settings.surfels, settings.seed, place=place, held=held)
    fit.zooming = torch.tensor([float(clip not in lenses) for clip in range(len(focal))])
    fit.course = of_clips({i: one for i, one in (courses or {}).items() if i not in still | held}, pictures.clip)
    settle_together(fit, (settings.held, settings.whole, settings.bent), 1.0, settings.stiff)
    done(settings.total - settings.curve - settings.free)
    fit.use_basis(_per_clip(pictures, still, lambda time: cosines(time, min(settings.waves, len(time)))))
    fit.run(
        settings.curve,
        Pace(
            turn=0.004,
            bend=0.004,
            focal=focal_rate,
            whole=whole,
            stiff=settings.stiff,
            smooth=settings.smooth,
            level=settings.level,
        ),
        batch=settings.batch,
    )
    done(settings.total - settings.free)
    fit.use_basis(_per_clip(pictures, still, lambda time: hats(time, settings.knots)))
    fit.run(
        settings.free,
        Pace(
            turn=0.003,
            bend=0.003,
            focal=focal_rate / 2,
            whole=whole / 2,
            stiff=settings.stiff,
            smooth=settings.smooth,
            level=settings.level,
        ),
        batch=settings.batch,
    )
    done(settings.total)
    return fit


def _per_clip(pictures: Pictures, still: frozenset[int], basis: Callable[[Tensor], Tensor]) -> Float[Tensor, "n k"]:
    """A basis in each clip's own time; none for a still one."""
    blocks = []
    for clip in pictures.clip.unique().tolist():
        time = pictures.time[pictures.clip == clip]
        blocks.append(torch.zeros(len(time), 1) if clip in still else basis(time))
    return torch.block_diag(*blocks)


@torch.no_grad()
def normalised(
    poses: Float[Tensor, "n 4 4"], means: Float[Tensor, "m 3"], weight: Float[Tensor, "m"]
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "3"], float]:
    """Poses for a root frame with the subject's middle at 0 and its radius by `root_scale`; the old middle; the scale.

    The middle is that of the box that holds 98 % of the surfels, so that limbs count as much as the trunk.
    """
    solid = means[weight > 0.3]
    solid = solid if len(solid) > 20 else means
    low, high = solid.quantile(0.01, dim=0), solid.quantile(0.99, dim=0)
    center = (low + high) / 2
    radius = float((solid - center).norm(dim=-1).quantile(0.98))
    moved = poses.clone()
    moved[:, :3, 3] += poses[:, :3, :3] @ center
    scale = root_scale(radius, float(moved[:, :3, 3].norm(dim=-1).min()))
    moved[:, :3, 3] *= scale
    return moved, center, scale
