"""Clips and their frames, as stage ingest leaves them on disk and every later stage reads them.

FOLDER/capture.json          names, sizes, times, cameras
FOLDER/CLIP/rgb/00000.png    straight colour (not premultiplied), 8 bit
FOLDER/CLIP/mask/00000.png   the subject's alpha, 8 bit
FOLDER/CLIP/weight/00000.png only where a pixel of the clip counts less than fully
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8, UInt16
from torch import Tensor

from fourdgen.disk import write_atomically
from fourdgen.geometry.camera import Cameras
from fourdgen.report import FourdgenError

CAPTURE = "capture.json"
VERSION = 1


@dataclass(frozen=True)
class Frame:
    """One frame. `weight`: 1 measured, below 1 imagined, 0 to be ignored (mask and colour alike)."""

    rgb: Float[Tensor, "h w 3"]  # sRGB 0..1, straight
    mask: Float[Tensor, "h w"]
    weight: Float[Tensor, "h w"]


@dataclass(frozen=True)
class Clip:
    """One video. Everything per frame has length t; `seconds` are counted from the source's first frame."""

    name: str
    source: str  # path of the file or folder it came from
    size: tuple[int, int]  # (w, h) of the stored pictures
    seconds: Float[Tensor, "t"]
    frame_ids: Int[Tensor, "t"]  # number of the frame in the source
    origin: Literal["filmed", "imagined"] = "filmed"
    cameras: Cameras | None = None  # cam_from_input, one a frame: OpenCV axes, the user's world, K in pixels of `size`
    masks_from: str = ""  # where the masks came from: alpha, given, plain, u2netp, classical
    weighted: bool = False  # a weight folder exists

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True)
class Capture:
    """All clips of a run. Pictures stay on disk until they are asked for."""

    clips: tuple[Clip, ...]
    folder: Path
    elsewhere: Mapping[str, Path] = field(default_factory=dict)  # folders of the clips that do not lie in `folder`
    tones: Mapping[str, tuple[Float[Tensor, "3"], Float[Tensor, "3"]]] = field(default_factory=dict)

    def toned(self, tones: Mapping[str, tuple[Float[Tensor, "3"], Float[Tensor, "3"]]]) -> Capture:
        """The same clips in the asset's colours: tones[clip] = (gain, bias), filmed = gain * asset + bias.

        Colours are corrected as they are read; a clip without a tone keeps its own.
        """
        return replace(self, tones=dict(tones))

    def clip(self, name: str) -> Clip:
        """Raises KeyError for a name that is not there."""
        for clip in self.clips:
            if clip.name == name:
                return clip
        raise KeyError(f"no clip {name!r}; there are {', '.join(c.name for c in self.clips)}")

    def frame(self, clip_name: str, index: int) -> Frame:
        """Frame `index` of a clip (not its number in the source; see Clip.frame_ids)."""
        clip = self.clip(clip_name)
        index = range(len(clip))[index]
        rgb, mask, weight = (self.read(clip_name, kind, index) for kind in ("rgb", "mask", "weight"))
        return Frame(_unit(rgb), _unit(mask), _unit(weight))

    def read(self, clip_name: str, kind: Literal["rgb", "mask", "weight"], index: int) -> UInt8[np.ndarray, "h w *c"]:
        """One stored picture as uint8. Weight of a clip without a weight folder is 255 everywhere."""
        clip = self.clip(clip_name)
        if kind == "weight" and not clip.weighted:
            return np.full((clip.size[1], clip.size[0]), 255, np.uint8)
        path = picture_path(self.elsewhere.get(clip_name, self.folder), clip_name, kind, index)
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR if kind == "rgb" else cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise FourdgenError(
                f"{path}: this picture of the run folder is missing or broken", "run again with --fresh"
            )
        if kind != "rgb":
            return picture
        rgb = np.ascontiguousarray(picture[..., ::-1])
        gain, bias = (tone.numpy() for tone in self.tones.get(clip_name, (torch.ones(3), torch.zeros(3))))
        if (gain == 1).all() and (bias == 0).all():
            return rgb
        return np.clip((rgb - 255 * bias) / gain + 0.5, 0, 255).astype(np.uint8)


def joined(capture: Capture, more: Capture) -> Capture:
    """The clips of both. Raises ValueError where a name stands in both."""
    both = {clip.name for clip in capture.clips} & {clip.name for clip in more.clips}
    if both:
        raise ValueError(f"clips of the same name: {', '.join(sorted(both))}")
    homes = {clip.name: more.elsewhere.get(clip.name, more.folder) for clip in more.clips}
    return Capture(
        (*capture.clips, *more.clips), capture.folder, {**capture.elsewhere, **homes}, {**capture.tones, **more.tones}
    )


def _unit(picture: UInt8[np.ndarray, "h w *c"]) -> Float[Tensor, "h w *c"]:
    return torch.from_numpy(picture).float() / 255


def stack(
    capture: Capture, name: str, indices: Sequence[int] | Int[Tensor, "n"] | None = None
) -> tuple[UInt8[Tensor, "n h w 3"], UInt8[Tensor, "n h w"]]:
    """Straight colour and mask of a clip (or of some of its frames) in memory, 0..255."""
    chosen = range(len(capture.clip(name))) if indices is None else [int(i) for i in indices]
    rgb = np.stack([capture.read(name, "rgb", i) for i in chosen])
    mask = np.stack([capture.read(name, "mask", i) for i in chosen])
    return torch.from_numpy(rgb), torch.from_numpy(mask)


def picture_path(folder: Path, clip_name: str, kind: str, index: int) -> Path:
    return folder / clip_name / kind / f"{index:05d}.png"


def write_picture(folder: Path, clip_name: str, kind: str, index: int, picture: UInt8[np.ndarray, "h w *c"]) -> None:
    """Stores one picture (RGB order, or one channel). Light compression: these files are read far more than kept."""
    path = picture_path(folder, clip_name, kind, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(picture))  # not one by one: the folder of the stage becomes whole at once


def to_bytes(values: Float[Tensor, "*s"]) -> UInt8[np.ndarray, "*s"]:
    """0..1 as bytes, rounded to the nearest; what lies outside is cut."""
    return (values.clamp(0, 1) * 255).round().byte().numpy()


def write_png(path: Path, picture: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w"], level: int = 1) -> None:
    """Writes RGB, RGBA or one channel, compressed at `level`: the whole file or none.

    Raises OSError where the disk is full; cv2.imwrite would leave half a file and say that all is well.
    """
    write_atomically(path, png_bytes(picture, level))


def png_bytes(picture: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w"], level: int = 1) -> bytes:
    """The PNG of RGB, RGBA or one channel, compressed at `level`."""
    if picture.ndim == 3:  # OpenCV wants blue first
        picture = np.ascontiguousarray(picture[..., [2, 1, 0, 3][: picture.shape[2]]])
    return bytes(cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes())


def save_capture(capture: Capture, folder: Path) -> None:
    """Writes capture.json. The pictures must already lie in `folder`, see `write_picture`."""
    data = {"version": VERSION, "clips": [_clip_to_json(clip) for clip in capture.clips]}
    (folder / CAPTURE).write_text(json.dumps(data, indent=1), encoding="utf-8")


def load_capture(folder: Path) -> Capture:
    """Reads what `save_capture` wrote. Raises FourdgenError: not there, broken, of a newer version."""
    path = folder / CAPTURE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FourdgenError(f"{path}: cannot be read", "run again with --fresh") from error
    if data.get("version") != VERSION:
        raise FourdgenError(f"{path}: of another version of fourdgen", "run again with --fresh")
    return Capture(tuple(_clip_from_json(clip) for clip in data["clips"]), folder)


def _clip_to_json(clip: Clip) -> dict[str, Any]:
    cameras = clip.cameras
    return {
        "name": clip.name,
        "source": clip.source,
        "size": list(clip.size),
        "seconds": clip.seconds.tolist(),
        "frame_ids": clip.frame_ids.tolist(),
        "origin": clip.origin,
        "masks_from": clip.masks_from,
        "weighted": clip.weighted,
        "cameras": None if cameras is None else {"pose": cameras.cam_from_world.tolist(), "K": cameras.K.tolist()},
    }


def _clip_from_json(data: dict[str, Any]) -> Clip:
    size = (int(data["size"][0]), int(data["size"][1]))
    cameras = None
    if data["cameras"] is not None:
        cameras = Cameras(torch.tensor(data["cameras"]["pose"]), torch.tensor(data["cameras"]["K"]), size)
    return Clip(
        name=data["name"],
        source=data["source"],
        size=size,
        seconds=torch.tensor(data["seconds"], dtype=torch.float32),
        frame_ids=torch.tensor(data["frame_ids"], dtype=torch.int64),
        origin=data["origin"],
        cameras=cameras,
        masks_from=data["masks_from"],
        weighted=data["weighted"],
    )
