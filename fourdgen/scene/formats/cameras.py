"""cameras.json: the cameras used or found for the input frames, in nerfstudio's layout, with `clip` and `frame`."""

from __future__ import annotations

from pathlib import Path

from fourdgen.data.cameras_io import write_transforms_json
from fourdgen.scene.entries import entries_of
from fourdgen.scene.scene4d import Scene4D


def write(path: Path, scene: Scene4D) -> None:
    """Writes the cameras in the user's coordinates when cameras were given, in the root frame when not."""
    write_transforms_json(path, entries_of(scene))
