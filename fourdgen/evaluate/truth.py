"""What is known to be true about a capture: held-out pictures with their cameras, the input cameras, meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.data.cameras_io import CameraEntry, read_camera_entries
from fourdgen.report import FourdgenError
from fourdgen.scene.entries import seconds_of
from fourdgen.scene.scene4d import Scene4D

LIST = "transforms.json"
_HINT = "a truth folder has truth/transforms.json with pictures beside it, and transforms.json with the input cameras"


@dataclass(frozen=True)
class View:
    """One held-out picture: its camera in the truth's world, the clip and time it shows, colour on white, alpha."""

    entry: CameraEntry
    clip: str
    seconds: float
    rgb: Float[Tensor, "3 h w"]
    alpha: Float[Tensor, "h w"]


@dataclass(frozen=True)
class Truth:
    """`inputs`: the true cameras of the input frames, empty where they are not known. `folder` holds meshes, if any."""

    views: list[View]
    inputs: list[CameraEntry]
    folder: Path
    skipped: int  # held-out pictures of clips that the scene does not have

    def picture(self, entry: CameraEntry) -> Float[Tensor, "3 h w"] | None:
        """The picture of an input camera on white, if it is there and has alpha."""
        path = self.folder.parent / entry.file_path
        if path.suffix.lower() != ".png" or not path.is_file():
            return None
        rgb, alpha = _picture(path, entry.size)
        return rgb if float(alpha.min()) < 1 else None


def read_truth(folder: Path, scene: Scene4D) -> Truth:
    """Reads FOLDER/truth (and FOLDER's input cameras), or FOLDER itself when it holds the held-out views.

    Raises FourdgenError where there is nothing to compare with.
    """
    held_out = folder / "truth" if (folder / "truth" / LIST).is_file() else folder
    if not (held_out / LIST).is_file():
        raise FourdgenError(f"{folder}: no held-out views here", _HINT)
    above = held_out.parent / LIST
    inputs = read_camera_entries(above) if held_out.name == "truth" and above.is_file() else []
    views, skipped = [], 0
    for entry in read_camera_entries(held_out / LIST):
        name = entry.clip or scene.reference
        if name not in scene.clips:
            skipped += 1
            continue
        clip = scene.clips[name]
        seconds = float(clip.seconds[0]) if entry.frame is None else seconds_of(clip, entry.frame)
        views.append(View(entry, name, seconds, *_picture(held_out / entry.file_path, entry.size)))
    if not views:
        raise FourdgenError(
            f"{folder}: none of the held-out views shows a clip of the scene ({', '.join(scene.clips)})",
            "clips are matched by name",
        )
    return Truth(views, inputs, held_out, skipped)


def _picture(path: Path, size: tuple[int, int]) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w"]]:
    """Colour composited on white, and alpha (1 everywhere where the file has none)."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if image is None:
        raise FourdgenError(f"{path}: no picture to compare with", _HINT)
    if (image.shape[1], image.shape[0]) != size:
        raise FourdgenError(
            f"{path}: {image.shape[1]} x {image.shape[0]} pixels, its camera says {size[0]} x {size[1]}", _HINT
        )
    largest = 65535 if image.dtype == np.uint16 else 255
    values = torch.from_numpy(image.astype(np.float32) / largest)
    if values.dim() == 2:
        values = values[..., None].expand(-1, -1, 3)
    rgb = values[..., [2, 1, 0]]
    alpha = values[..., 3] if values.shape[-1] == 4 else torch.ones(values.shape[:2])
    return (rgb * alpha[..., None] + 1 - alpha[..., None]).permute(2, 0, 1).contiguous(), alpha


def matched(scene: Scene4D, inputs: list[CameraEntry]) -> list[tuple[CameraEntry, str, int]]:
    """Input cameras of the truth whose frame the scene has: entry, clip, index in that clip."""
    at = {name: {int(n): i for i, n in enumerate(clip.frame_ids.tolist())} for name, clip in scene.clips.items()}
    pairs = []
    for entry in inputs:
        if entry.clip in at and entry.frame in at[entry.clip]:
            pairs.append((entry, entry.clip, at[entry.clip][entry.frame]))
    return pairs
