"""The records that stages hand to each other. Each is one artifact on disk; shapes are the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int
from torch import Tensor

from fourdgen.geometry.transforms import Sim3, rotation_angle_degrees

STILL = 0.5  # degrees: a view that turns by less stands still


@dataclass(frozen=True)
class ClipAlignment:
    """First estimate of one clip, already in the shared root frame.

    `cam_from_root`: per frame. `K`: per frame, pixels at Clip.size. `confidence`: 0..1 per frame.
    `time_offset`, `time_rate`: where the clip shows the motion of the clip `synchronised_with`, seconds of that clip =
    rate * seconds + offset.
    `gain`, `bias`: filmed colour = gain * asset colour + bias; the asset has the reference's colours.
    `turn`, `sweep`: what the user said of a clip that was searched (--turn; --sweep, degrees), which holds for all that
    comes after.
    """

    cam_from_root: Float[Tensor, "t 4 4"]
    K: Float[Tensor, "t 3 3"]
    confidence: Float[Tensor, "t"]
    gain: Float[Tensor, "3"]
    bias: Float[Tensor, "3"]
    synchronised_with: str | None = None
    time_offset: float = 0.0
    time_rate: float = 1.0
    accepted: bool = True
    reason: str = ""
    given: bool = False  # by the user's own cameras: its poses are never changed
    turn: str = "auto"
    sweep: float | None = None


@dataclass(frozen=True)
class Alignment:
    """Result of stage align. `clips` holds only the clips that take part; `left_out` says why others do not.

    `world_from_input` is there as soon as one clip has cameras; `given` says that all have.
    """

    clips: Mapping[str, ClipAlignment]
    reference: str
    world_from_input: Sim3 | None
    given: bool  # the user's own cameras: no pose is changed afterwards
    left_out: Mapping[str, str] = field(default_factory=dict)
    doubt: str = ""  # why the user's cameras may be wrong


@dataclass(frozen=True)
class ClipTrack:
    """Root poses of one clip: `cam_from_root` and K (pixels at Clip.size) per frame, confidence 0..1 per frame.

    `bob`: what was quick in the measured translations across the line of sight (x, y) and is not in `cam_from_root`,
    which leaves it to the body.
    """

    cam_from_root: Float[Tensor, "t 4 4"]
    K: Float[Tensor, "t 3 3"]
    confidence: Float[Tensor, "t"]
    given: bool = False  # by the user: never corrected
    bob: Float[Tensor, "t 2"] | None = None

    def bobbing(self) -> ClipTrack:
        """The same with x and y as they were measured in every frame."""
        if self.bob is None:
            return self
        poses = self.cam_from_root.clone()
        poses[:, :2, 3] += self.bob
        return replace(self, cam_from_root=poses, bob=None)

    @property
    def still(self) -> bool:
        return stands_still(self.cam_from_root[:, :3, :3])


def stands_still(cam_from_root: Float[Tensor, "t 3 3"]) -> bool:
    """Whether these rotations differ by so little that the view counts as standing still."""
    return float(rotation_angle_degrees(cam_from_root[:1], cam_from_root).max()) < STILL


@dataclass(frozen=True)
class RootTrack:
    """Result of stage root_pose. `certain` is False when the acceptance tests failed; `reason` says which."""

    clips: Mapping[str, ClipTrack]
    world_from_input: Sim3 | None
    given: bool
    certain: bool = True
    reason: str = ""


@dataclass(frozen=True)
class FrameSet:
    """Result of stage sample: the frames that train. Row i is frame `index[i]` of clip `names[clip[i]]`.

    Only every `every`th frame of a clip is among them; the others are held out.
    """

    names: tuple[str, ...]
    clip: Int[Tensor, "f"]
    index: Int[Tensor, "f"]
    seconds: Float[Tensor, "f"]
    probability: Float[Tensor, "f"]
    every: int = 1
