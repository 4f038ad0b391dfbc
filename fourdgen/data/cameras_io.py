"""Cameras in files: nerfstudio's transforms.json, and COLMAP models as text or binary.

Inside fourdgen every camera is `cam_from_input` with OpenCV axes (x right, y down, z forward) in the user's own world.
transforms.json holds camera-to-world matrices with OpenGL axes (y up, z backward); COLMAP already speaks ours.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.data.lens import Lens, distort
from fourdgen.disk import write_atomically
from fourdgen.geometry.transforms import quat_to_matrix
from fourdgen.report import FourdgenError, absent

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL camera axes <-> OpenCV camera axes; its own inverse

FOCALS = (0.05, 100.0)  # focal lengths that cameras have, in longer sides of the picture
OFF_MIDDLE = 1.5  # sides by which a principal point may lie off the picture's middle: crops of crops do
BENT = 4.0  # times as far out as a straight lens shows a corner
ROUNDED = 0.02  # by which the axes of a rotation may be stretched: files round to a few digits


@dataclass(frozen=True)
class CameraEntry:
    """One camera of a file, in the file's order.

    `clip`, `frame`: whose camera this is, where the file says it; `view`: a name of a held-out camera. `K` is in pixels
    of `size` (w, h). `distortion`: None for a straight lens.
    """

    file_path: str
    cam_from_input: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]
    size: tuple[int, int]
    clip: str | None = None
    frame: int | None = None
    view: str | None = None
    distortion: Lens | None = None


def read_camera_entries(path: Path) -> list[CameraEntry]:
    """Cameras of a transforms.json, or of a COLMAP model folder (also found in sparse/0 and sparse below `path`).

    Raises FourdgenError: missing, unreadable, no cameras, a camera model that is not known.
    """
    if path.is_dir():
        if (path / "transforms.json").is_file():
            return _read_transforms(path / "transforms.json")
        for folder in (path, path / "sparse" / "0", path / "sparse", path / "colmap" / "sparse" / "0"):
            for suffix in ("bin", "txt"):
                if (folder / f"cameras.{suffix}").is_file() and (folder / f"images.{suffix}").is_file():
                    return _read_colmap(folder, suffix)
        raise FourdgenError(
            f"{path}: no cameras in this folder",
            "a COLMAP model has cameras.bin and images.bin (or .txt); for nerfstudio give the transforms.json",
        )
    if not path.exists():
        raise absent(path, "give a transforms.json or the folder of a COLMAP model")
    if path.name in ("cameras.txt", "images.txt", "cameras.bin", "images.bin"):
        return _read_colmap(path.parent, path.suffix[1:])
    return _read_transforms(path)


# --------------------------------------------------------------------------------------------------------------
# nerfstudio's transforms.json


def _read_transforms(path: Path) -> list[CameraEntry]:
    hint = "cameras are read from nerfstudio's transforms.json or a COLMAP model"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise FourdgenError(f"{path}: not a readable JSON file ({error})", hint) from error
    frames = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(frames, list) or not frames:
        raise FourdgenError(f"{path}: no list of frames in this file", hint)
    entries = []
    for number, frame in enumerate(frames):
        try:
            if not isinstance(frame, dict):
                raise ValueError("it is no table such as {transform_matrix, file_path}")
            entries.append(_transforms_entry({**data, **frame}, path.parent))
        except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
            said = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise FourdgenError(f"{path}: entry {number} of frames: {said}", hint) from error
    return entries


def _transforms_entry(item: dict[str, Any], folder: Path) -> CameraEntry:
    input_from_cam = np.array(item["transform_matrix"], dtype=np.float64)
    if input_from_cam.shape == (3, 4):
        input_from_cam = np.concatenate([input_from_cam, [[0.0, 0.0, 0.0, 1.0]]])
    if input_from_cam.shape != (4, 4) or not np.isfinite(input_from_cam).all():
        raise ValueError("transform_matrix is not 4 x 4 finite numbers")
    file_path = str(item.get("file_path", ""))
    size = _size(item, folder / file_path)
    focal = _focal(item, size)
    K = np.array(
        [
            [focal[0], 0, _number(item, "cx", size[0] / 2)],
            [0, focal[1], _number(item, "cy", size[1] / 2)],
            [0, 0, 1],
        ]
    )
    if not np.isfinite(K).all() or min(focal) <= 0:
        raise ValueError("the focal length is not a positive number")
    frame = None if item.get("frame") is None else _number(item, "frame", kind="a whole number")
    if frame is not None and frame != int(frame):
        raise ValueError(f"frame = {item['frame']}: expected a whole number")
    lens = _transforms_lens(item)
    _check_intrinsics(K, size, lens)
    return CameraEntry(
        file_path=file_path,
        cam_from_input=_rigid_inverse(input_from_cam @ _FLIP),
        K=torch.from_numpy(K),
        size=size,
        clip=None if item.get("clip") is None else str(item["clip"]),
        frame=None if frame is None else int(frame),
        view=None if item.get("view") is None else str(item["view"]),
        distortion=lens,
    )


def _number(item: dict[str, Any], name: str, default: float = 0.0, kind: str = "a number") -> float:
    """A finite number of an entry. Raises ValueError in words that name it."""
    value = item.get(name)
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} = {json.dumps(value)}: expected {kind}")
    return number


def _check_intrinsics(K: Float[np.ndarray, "3 3"], size: tuple[int, int], lens: Lens | None) -> None:
    """Raises ValueError for what no camera has, and what no stage could make sense of."""
    for axis, name in enumerate("xy"):
        sides = K[axis, axis] / max(size)
        if not FOCALS[0] <= sides <= FOCALS[1]:
            raise ValueError(f"fl_{name} = {K[axis, axis]:g}: no focal length for a picture of {size[0]}x{size[1]}")
        if abs(K[axis, 2] / size[axis] - 0.5) > OFF_MIDDLE:
            raise ValueError(f"c{name} = {K[axis, 2]:g}: far outside of a picture of {size[0]}x{size[1]}")
    if lens is not None and lens.model == "polynomial":
        corner = np.array([size[0] / K[0, 0], size[1] / K[1, 1]]) / 2
        longer = float(np.linalg.norm(distort(lens, corner)) / np.linalg.norm(corner))
        if longer > BENT:
            raise ValueError(f"no lens moves the corners of a picture {longer:.0f} times as far out (k1, k2, p1, p2)")


def _size(item: dict[str, Any], picture: Path) -> tuple[int, int]:
    if item.get("w") and item.get("h"):
        size = int(_number(item, "w")), int(_number(item, "h"))
        if min(size) < 1:
            raise ValueError(f"w = {size[0]}, h = {size[1]}: no size of a picture")
        return size
    if item.get("cx") and item.get("cy") and not picture.is_file():
        return round(2 * float(item["cx"])), round(2 * float(item["cy"]))
    import cv2

    for candidate in (picture, picture.with_name(picture.name + ".png")):  # NeRF's own files leave the suffix out
        image = cv2.imread(str(candidate), cv2.IMREAD_UNCHANGED) if candidate.is_file() else None
        if image is not None:
            return image.shape[1], image.shape[0]
    raise KeyError("w (or h)")


def _focal(item: dict[str, Any], size: tuple[int, int]) -> tuple[float, float]:
    across = item.get("fl_x") or item.get("fl_y")
    if across:
        across = _number(item, "fl_x") or _number(item, "fl_y")
        return across, _number(item, "fl_y") or across
    if item.get("camera_angle_x"):
        across = size[0] / 2 / math.tan(float(item["camera_angle_x"]) / 2)
        down = size[1] / 2 / math.tan(float(item["camera_angle_y"]) / 2) if item.get("camera_angle_y") else across
        return across, down
    raise KeyError("fl_x")


def _transforms_lens(item: dict[str, Any]) -> Lens | None:
    model = str(item.get("camera_model", "OPENCV"))
    k = tuple(_number(item, name) for name in ("k1", "k2", "k3", "k4"))
    p = (_number(item, "p1"), _number(item, "p2"))
    if model in ("OPENCV_FISHEYE", "FISHEYE"):
        return Lens("fisheye", k)
    if model in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "RADIAL", "SIMPLE_RADIAL"):
        lens = Lens("polynomial", k, p)
        return None if lens.straight else lens
    raise ValueError(f"the camera model {model} is not known (known: OPENCV, OPENCV_FISHEYE, PINHOLE)")


def write_transforms_json(path: Path, entries: Sequence[CameraEntry]) -> None:
    """Writes cameras in nerfstudio's layout, with `clip`, `frame` and `view` where they are set. Atomic.

    Intrinsics stand with each frame, since clips may differ. Raises ValueError for a lens that the layout cannot hold.
    """
    frames = []
    for entry in entries:
        input_from_cam = np.linalg.inv(entry.cam_from_input.double().numpy()) @ _FLIP
        K = entry.K.double()
        frame: dict[str, Any] = {"file_path": entry.file_path}
        frame |= {k: v for k in ("clip", "frame", "view") if (v := getattr(entry, k)) is not None}
        frame |= {"w": entry.size[0], "h": entry.size[1], "fl_x": float(K[0, 0]), "fl_y": float(K[1, 1])}
        frame |= {"cx": float(K[0, 2]), "cy": float(K[1, 2]), **_lens_to_json(entry.distortion)}
        frame["transform_matrix"] = input_from_cam.tolist()
        frames.append(frame)
    write_atomically(path, json.dumps({"camera_model": "OPENCV", "frames": frames}, indent=1).encode())


def _lens_to_json(lens: Lens | None) -> dict[str, Any]:
    if lens is None:
        return {}
    if lens.model == "rational":
        raise ValueError("transforms.json cannot hold a rational lens")
    model = {"camera_model": "OPENCV_FISHEYE"} if lens.model == "fisheye" else {}
    return {**model, **{f"k{i + 1}": k for i, k in enumerate(lens.k)}, "p1": lens.p[0], "p2": lens.p[1]}


# --------------------------------------------------------------------------------------------------------------
# COLMAP. https://colmap.github.io/format.html

_COLMAP_MODELS = {  # number in binary files -> name, how many parameters
    0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5), 4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8), 6: ("FULL_OPENCV", 12), 7: ("FOV", 5), 8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5), 10: ("THIN_PRISM_FISHEYE", 12),
}  # fmt: skip


def _read_colmap(folder: Path, suffix: str) -> list[CameraEntry]:
    try:
        read_cameras, read_images = (
            (_binary_cameras, _binary_images) if suffix == "bin" else (_text_cameras, _text_images)
        )
        cameras = dict(read_cameras(folder / f"cameras.{suffix}"))
        entries = []
        for name, camera, quaternion, translation in read_images(folder / f"images.{suffix}"):
            K, size, lens = cameras[camera]
            _check_intrinsics(K, size, lens)
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = quat_to_matrix(torch.tensor(quaternion, dtype=torch.float64)), translation
            entries.append(CameraEntry(name, torch.from_numpy(pose), torch.from_numpy(K), size, distortion=lens))
    except FourdgenError:
        raise
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise FourdgenError(
            f"{folder}: this COLMAP model cannot be read ({error})", "export it from COLMAP again"
        ) from error
    if not entries:
        raise FourdgenError(f"{folder}: this COLMAP model has no images", "did the mapper register any?")
    return entries


_Intrinsics = tuple[np.ndarray, tuple[int, int], Lens | None]


def _colmap_camera(model: str, size: tuple[int, int], v: Sequence[float]) -> _Intrinsics:
    one_focal = model.startswith("SIMPLE") or model in ("RADIAL", "RADIAL_FISHEYE")
    fx, fy, cx, cy = (v[0], v[0], v[1], v[2]) if one_focal else v[:4]
    rest = tuple(v[3:] if one_focal else v[4:])
    if model in ("SIMPLE_PINHOLE", "PINHOLE"):
        lens = None
    elif model in ("SIMPLE_RADIAL", "RADIAL"):
        lens = Lens("polynomial", rest)
    elif model == "OPENCV":
        lens = Lens("polynomial", rest[:2], (rest[2], rest[3]))
    elif model == "FULL_OPENCV":
        lens = Lens("rational", (rest[0], rest[1], rest[4], *rest[5:8]), (rest[2], rest[3]))
    elif model in ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"):
        lens = Lens("fisheye", rest)
    else:
        raise FourdgenError(
            f"COLMAP's camera model {model} is not known",
            "undistort with `colmap image_undistorter` and give its result",
        )
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    return K, size, None if lens is None or lens.straight else lens


def _text_lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _text_cameras(path: Path) -> Iterator[tuple[int, _Intrinsics]]:
    for line in filter(None, _text_lines(path)):
        number, model, width, height, *values = line.split()
        yield int(number), _colmap_camera(model, (int(width), int(height)), [float(v) for v in values])


def _text_images(path: Path) -> Iterator[tuple[str, int, Sequence[float], Sequence[float]]]:
    # Two lines an image; the second holds its points and may be empty.
    lines = _text_lines(path)
    while lines and not lines[0]:
        lines.pop(0)
    for line in filter(None, lines[::2]):
        _, *pose, camera, name = line.split(maxsplit=9)
        values = [float(v) for v in pose]
        yield name, int(camera), values[:4], values[4:7]


def _binary_cameras(path: Path) -> Iterator[tuple[int, _Intrinsics]]:
    with path.open("rb") as file:
        for _ in range(_unpack(file, "<Q")[0]):
            number, model, width, height = _unpack(file, "<iiQQ")
            name, count = _COLMAP_MODELS[model]
            yield number, _colmap_camera(name, (width, height), _unpack(file, f"<{count}d"))


def _binary_images(path: Path) -> Iterator[tuple[str, int, Sequence[float], Sequence[float]]]:
    with path.open("rb") as file:
        for _ in range(_unpack(file, "<Q")[0]):
            values = _unpack(file, "<i7di")
            name = bytearray()
            while (letter := file.read(1)) not in (b"\0", b""):
                name += letter
            file.seek(24 * _unpack(file, "<Q")[0], os.SEEK_CUR)
            yield name.decode("utf-8"), values[8], values[1:5], values[5:8]


def _unpack(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _rigid_inverse(matrix: np.ndarray) -> Tensor:
    """Inverse of a camera-to-world matrix. Its rotation is cleaned, because files round it to a few digits."""
    scale = np.cbrt(np.linalg.det(matrix[:3, :3]))
    if not scale > 1e-9:
        raise ValueError("transform_matrix holds no rotation (its determinant is not positive)")
    u, stretch, vh = np.linalg.svd(matrix[:3, :3])
    if np.abs(stretch / scale - 1).max() > ROUNDED:
        raise ValueError("transform_matrix holds no rotation (its axes differ in length or are not at right angles)")
    rotation = (u @ vh).T
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, -rotation @ matrix[:3, 3]
    return torch.from_numpy(out)
