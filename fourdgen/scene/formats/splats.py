"""Static Gaussian splats of one moment, in the files that splat viewers read: 3DGS .ply, .splat, .spz, and a folder of
.ply for a sequence. (.sog is in sog.py.)

A surfel becomes a Gaussian with a third scale that is thin.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fourdgen.geometry.transforms import quat_to_matrix
from fourdgen.report import Reporter, Silent
from fourdgen.scene.adapt import turned_degree_one
from fourdgen.scene.formats.sequence import write_frames
from fourdgen.scene.ply import table, write_ply
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import SH_C0, Surfels
from fourdgen.scene.vertex import splat_columns
from fourdgen.scene.whole import whole_file

SPZ_MAGIC, SPZ_VERSION = 0x5053474E, 3
SPZ_COLOR = 0.15  # of the degree-0 coefficients, so that a byte holds them
SPZ_BITS = (5, 4, 4)  # that count in the byte of a coefficient of degree 1, 2, 3


def at_moment(scene: Scene4D, seconds: float | None = None, clip: str | None = None) -> Surfels:
    """Surfels at a time of a clip (default: the first frame of the reference), harmonics turned with their surfels:
    other programs know nothing of canonical frames."""
    name = clip or scene.reference
    moment = float(scene.clips[name].seconds[0]) if seconds is None else seconds
    return turned_harmonics(scene.at(name, moment))


def turned_harmonics(surfels: Surfels) -> Surfels:
    """Warped surfels whose degree-1 harmonics take view directions in the world instead of the canonical frame."""
    if surfels.turned is None or surfels.sh.shape[1] == 1:
        return replace(surfels, turned=None)
    return replace(surfels, sh=turned_degree_one(surfels.sh, quat_to_matrix(surfels.turned)), turned=None)


def write_3dgs(path: Path, surfels: Surfels) -> None:
    """The layout of 3D Gaussian Splatting's point_cloud.ply."""
    names, values = splat_columns(surfels)
    write_ply(path, {"vertex": table(names, values)}, ["Gaussian splats, made by fourdgen"])


def write_sequence(folder: Path, scene: Scene4D, report: Reporter = Silent()) -> None:
    """A 3DGS file for every frame of the reference clip."""

    def frame(path: Path, seconds: float) -> None:
        write_3dgs(path, at_moment(scene, seconds))

    write_frames(folder, scene, "ply", "ply", frame, report)


def write_splat(path: Path, surfels: Surfels) -> None:
    """.splat: 32 bytes a splat: position and scales (float32), colour and opacity (bytes), quaternion wxyz (bytes), the
    most visible first, so that a viewer that has only part of it shows the shape. Harmonics above degree 0 are lost."""
    names, values = splat_columns(surfels)
    columns = _columns(names, values)
    scales = np.exp(columns("scale_", 3))
    rgba = np.concatenate([0.5 + SH_C0 * columns("f_dc_", 3), _sigmoid(columns("opacity", 0))], 1)
    records = np.zeros(len(values), dtype=[("at", "<f4", 6), ("rgba", "u1", 4), ("rot", "u1", 4)])
    records["at"] = np.concatenate([columns("xyz", 3), scales], 1)
    records["rgba"] = _byte(rgba * 255)
    records["rot"] = _byte(_unit(columns("rot_", 4)) * 128 + 128)
    order = np.argsort(-(scales[:, 0] * scales[:, 1] * rgba[:, 3]), kind="stable")
    with whole_file(path) as part:
        part.write_bytes(records[order].tobytes())


def write_spz(path: Path, surfels: Surfels) -> None:
    """.spz, version 3 of the format (Niantic): gzip of a header, 24-bit positions, bytes for all else, quaternions by
    their three smallest components.

    The axes are left as they are, as the converters of .ply files do; the format's documentation has y up (--up y).
    """
    names, values = splat_columns(surfels)
    columns = _columns(names, values)
    count = len(values)
    positions = columns("xyz", 3)
    bits = int(np.clip(23 - np.ceil(np.log2(max(float(np.abs(positions).max()), 1e-6))) - 1, 0, 20))
    fixed = np.clip(np.round(positions.astype(np.float64) * (1 << bits)), -(1 << 23), (1 << 23) - 1)
    fixed = np.ascontiguousarray(fixed, dtype="<i4")
    degree = 1 if "f_rest_8" in names else 0
    parts = [
        struct.pack("<IIIBBBB", SPZ_MAGIC, SPZ_VERSION, count, degree, bits, 0, 0),
        fixed.view(np.uint8).reshape(count, 3, 4)[:, :, :3].tobytes(),
        _byte(_sigmoid(columns("opacity", 0)) * 255).tobytes(),
        _byte(columns("f_dc_", 3) * (SPZ_COLOR * 255) + 0.5 * 255).tobytes(),
        _byte((columns("scale_", 3) + 10) * 16).tobytes(),
        _smallest_three(columns("rot_", 4)).tobytes(),
    ]
    if degree:
        rest = columns("f_rest_", 9).reshape(count, 3, 3).transpose(0, 2, 1)  # colours side by side per coefficient
        step = 1 << (8 - SPZ_BITS[0])
        parts.append(_byte((np.round(rest * 128) + 128 + step // 2) // step * step).tobytes())
    with whole_file(path) as part:
        part.write_bytes(gzip.compress(b"".join(parts), 9, mtime=0))


def _smallest_three(quats: np.ndarray) -> np.ndarray:
    """Quaternions wxyz [n 4] as 32 bits each: two name the largest component of xyzw, ten each (sign, nine bits of
    size) hold the others."""
    unit = _unit(quats)[:, [1, 2, 3, 0]].astype(np.float64)
    largest = np.abs(unit).argmax(1)
    unit *= np.where(unit[np.arange(len(unit)), largest] < 0, -1.0, 1.0)[:, None]
    packed = largest.astype(np.uint32)
    for axis in range(4):
        size = np.round(np.abs(unit[:, axis]) * np.sqrt(2) * 511).clip(0, 511).astype(np.uint32)
        field = (packed << np.uint32(10)) | ((unit[:, axis] < 0).astype(np.uint32) << np.uint32(9)) | size
        packed = np.where(largest == axis, packed, field)
    return packed.astype("<u4")


def _columns(names: list[str], values: np.ndarray) -> Callable[[str, int], np.ndarray]:
    """A function of a prefix and a count that gives these columns as [n count]; xyz, and single ones by count 0."""

    def pick(prefix: str, count: int) -> np.ndarray:
        wanted = list("xyz") if prefix == "xyz" else [f"{prefix}{i}" for i in range(count)] or [prefix]
        return values[:, [names.index(name) for name in wanted]]

    return pick


def _unit(quats: np.ndarray) -> np.ndarray:
    return quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))


def _byte(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
