"""Scene4D: what reconstruct makes and scene.ply holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3
from fourdgen.report import FourdgenError
from fourdgen.scene.motion import Motion
from fourdgen.scene.surfels import Surfels

EVERY = "every"  # the note of a scene that was trained on every nth frame of each clip only


@dataclass(frozen=True)
class SceneClip:
    """One clip of an asset: when its frames are, how they were seen, and its colour relative to the reference.

    Filmed colour = gain * asset colour + bias. `frame_ids` are the numbers of the frames in the source file.
    """

    name: str
    seconds: Float[Tensor, "t"]
    frame_ids: Int[Tensor, "t"]
    cameras: Cameras
    gain: Float[Tensor, "3"]
    bias: Float[Tensor, "3"]

    def __repr__(self) -> str:
        first, last = float(self.seconds[0]), float(self.seconds[-1])
        width, height = self.cameras.size
        return f"<clip {self.name}: {len(self.seconds)} frames of {width}x{height}, {first:g} to {last:g} s>"


@dataclass(frozen=True)
class Scene4D:
    """Canonical surfels, their motion, and the clips that show it. The world is the normalised root frame (y down)."""

    surfels: Surfels
    motion: Motion
    clips: Mapping[str, SceneClip]
    reference: str
    world_from_input: Sim3 | None = None
    run_folder: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)  # what `info` prints, such as "poses": "uncertain: ..."

    def at(self, clip: str | None = None, seconds: float = 0.0) -> Surfels:
        """Surfels in their state at a time of a clip (default: the reference), in the root frame.

        Times outside the clip are held at its ends. Raises FourdgenError for a clip that the scene does not have, and
        for a time that is no number.
        """
        name = self.reference if clip is None else clip
        if name not in self.clips:
            raise FourdgenError(f"the scene has no clip {name!r}", f"its clips: {', '.join(self.clips)}")
        if math.isnan(seconds):
            raise FourdgenError("seconds = nan: not a time", f"clip {name} is {self.clips[name]!r}")
        times = self.clips[name].seconds
        held = min(max(float(seconds), float(times[0])), float(times[-1]))
        return self.motion.warp(self.surfels, name, held)

    def trained_frames(self, clip: str) -> range:
        """Which frames of a clip the asset may know; the others are held out (`sample.every`)."""
        return range(0, len(self.clips[clip].seconds), int(self.notes.get(EVERY, "1")))

    def __repr__(self) -> str:
        each = [(clip.name, float(clip.seconds[-1] - clip.seconds[0])) for clip in self.clips.values()]
        clips = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in each)
        many = "clip" if len(self.clips) == 1 else "clips"
        return f"<Scene4D: {len(self.surfels)} surfels, {len(self.clips)} {many} ({clips})>"
