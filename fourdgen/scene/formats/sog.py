"""SOG, PlayCanvas's compressed splats (version 2 of the format's public specification): a ZIP of meta.json and lossless
WebP images in which pixel i holds byte-sized attributes of splat i.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourdgen.scene.surfels import Surfels
from fourdgen.scene.vertex import splat_columns
from fourdgen.scene.whole import whole_file

BAND_COEFFICIENTS = 3  # of degree 1
PALETTE_ROW = 64  # entries of the harmonics' palette in a row of its image
_ROOT = np.sqrt(2.0)


def write(path: Path, surfels: Surfels) -> None:
    """Splats of one moment. Degree-1 harmonics go through a palette of up to 65536 entries."""
    names, values = splat_columns(surfels)
    with whole_file(path) as part:
        write_bundle(part, splat_images(names, values))


def write_bundle(path: Path, entries: Mapping[str, bytes]) -> None:
    """A ZIP with fixed dates, so that equal scenes give equal bytes. Images are compressed already."""
    with zipfile.ZipFile(path, "w") as bundle:
        for name, data in entries.items():
            stored = name.endswith(".webp") or name.endswith(".xz")
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            bundle.writestr(info, data)


def splat_images(
    names: list[str], values: np.ndarray, position_bits: int = 16, levels: int = 256, alpha_step: int = 1
) -> dict[str, bytes]:
    """The files of a bundle for columns of 3DGS [n c], in Morton order: neighbours in space are neighbours in the
    images. Fewer `position_bits` leave the lowest bits 0, fewer `levels` of sizes and colours and a larger `alpha_step`
    leave bytes unused: all that makes a smaller file."""
    column = {name: values[:, i].astype(np.float64) for i, name in enumerate(names)}
    xyz = np.stack([column[axis] for axis in "xyz"], 1)
    order = morton_order(xyz)
    column = {name: part[order] for name, part in column.items()}
    xyz = xyz[order]
    count = len(xyz)

    logged = np.sign(xyz) * np.log1p(np.abs(xyz))
    low, high = logged.min(0), logged.max(0)
    span = np.maximum(high - low, 1e-9)
    step = 1 << (16 - position_bits)
    fixed = np.round((logged - low) / span * 65535 / step) * step
    fixed = np.clip(fixed, 0, 65536 - step).astype(np.uint16)

    scales = np.stack([column[f"scale_{i}"] for i in range(3)], 1)
    scale_book, scale_index = codebook(scales, levels)
    colors = np.stack([column[f"f_dc_{i}"] for i in range(3)], 1)
    color_book, color_index = codebook(colors, levels)
    opacity = 255 / (1 + np.exp(-np.clip(column["opacity"], -30, 30)))
    # A pixel of alpha 0 would lose its colour in WebP; nobody sees the difference to 1.
    alpha = np.clip(np.round(opacity / alpha_step) * alpha_step, 1, 255)[:, None]

    entries = {
        "means_l.webp": image(fixed & 255),
        "means_u.webp": image(fixed >> 8),
        "quats.webp": image(packed_quats(np.stack([column[f"rot_{i}"] for i in range(4)], 1))),
        "scales.webp": image(scale_index),
        "sh0.webp": image(np.concatenate([color_index, alpha], 1)),
    }
    meta = {
        "version": 2, "count": count, "antialias": False, "asset": {"generator": "fourdgen"},
        "means": {"mins": low.tolist(), "maxs": (low + span).tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book, "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_book, "files": ["sh0.webp"]},
    }  # fmt: skip
    if "f_rest_8" in column:
        rest = np.stack([column[f"f_rest_{i}"] for i in range(9)], 1)
        meta["shN"] = _harmonics(rest, entries, levels)
    return {"meta.json": json.dumps(meta).encode(), **entries}


def _harmonics(rest: np.ndarray, entries: dict[str, bytes], levels: int) -> dict[str, object]:
    """Adds the palette images of degree-1 harmonics [n 9] (all of red, then green, then blue) and describes them."""
    book, index = codebook(rest, levels)
    palette, labels = np.unique(index, axis=0, return_inverse=True)
    if len(palette) > 65536:
        from scipy.cluster.vq import kmeans2

        centers, labels = kmeans2(rest.astype(np.float32), 65536, iter=4, minit="points", seed=0)
        palette = np.abs(centers[..., None] - np.asarray(book)).argmin(-1)
    labels = labels.reshape(-1)
    rows = -(-len(palette) // PALETTE_ROW)
    centroids = np.zeros((rows * PALETTE_ROW, BAND_COEFFICIENTS, 3), np.uint8)
    centroids[: len(palette)] = palette.reshape(-1, 3, BAND_COEFFICIENTS).transpose(0, 2, 1)
    entries["shN_centroids.webp"] = webp(centroids.reshape(rows, PALETTE_ROW * BAND_COEFFICIENTS, 3))
    entries["shN_labels.webp"] = image(np.stack([labels & 255, labels >> 8, 0 * labels], 1))
    files = ["shN_centroids.webp", "shN_labels.webp"]
    return {"count": len(palette), "bands": 1, "codebook": book, "files": files}


def codebook(values: np.ndarray, levels: int = 256) -> tuple[list[float], np.ndarray]:
    """256 rising numbers (`levels` different ones) and, for each value, the index [same shape, u1] of the nearest.

    Half of the numbers stand where the values are dense (quantiles), half evenly over their range, so that the few
    values far out are not rounded away. Two steps of Lloyd's iteration follow.
    """
    flat = np.sort(values.reshape(-1).astype(np.float64))
    quantiles = flat[np.linspace(0, len(flat) - 1, levels // 2).round().astype(int)]
    book = np.unique(np.concatenate([quantiles, np.linspace(flat[0], flat[-1], levels // 2)]))
    for _ in range(2):
        edges = np.searchsorted(flat, 0.5 * (book[1:] + book[:-1]))
        starts = np.concatenate([[0], edges])
        sizes = np.diff(np.concatenate([starts, [len(flat)]]))
        sums = np.add.reduceat(np.concatenate([flat, [0.0]]), starts)
        book = np.where(sizes > 0, sums / np.maximum(sizes, 1), book)
    book = np.array(sorted({float(f"{number:.6g}") for number in book}))  # digits that a byte cannot use cost space
    index = np.searchsorted(0.5 * (book[1:] + book[:-1]), values)
    return [*book.tolist(), *([float(book[-1])] * (256 - len(book)))], index.astype(np.uint8)


def packed_quats(quats: np.ndarray) -> np.ndarray:
    """RGBA bytes [n 4] of quaternions wxyz: alpha 252 + the largest component's index, the other three in RGB."""
    unit = quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12)
    largest = np.abs(unit).argmax(1)
    rows = np.arange(len(unit))
    unit = unit * np.where(unit[rows, largest] < 0, -1.0, 1.0)[:, None]
    others = np.array([[j for j in range(4) if j != i] for i in range(4)])[largest]
    kept = np.take_along_axis(unit, others, 1)
    return np.concatenate([np.clip(np.round((kept * _ROOT / 2 + 0.5) * 255), 0, 255), 252 + largest[:, None]], 1)


def morton_order(points: np.ndarray) -> np.ndarray:
    """Indices that sort points [n 3] along the Z-order curve of their bounding box."""
    low = points.min(0)
    cells = ((points - low) / max(float((points.max(0) - low).max()), 1e-12) * 1023).astype(np.uint64)
    code = np.zeros(len(points), np.uint64)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint64(bit)) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return np.argsort(code, kind="stable")


def image(pixels: np.ndarray) -> bytes:
    """Rows [n c] as a nearly square lossless WebP; what is left over of the last row is opaque black."""
    count, channels = pixels.shape
    width = max(4, int(np.ceil(np.sqrt(count) / 4)) * 4)
    height = -(-count // width)
    canvas = np.zeros((height * width, channels), np.uint8)
    canvas[:, 3:] = 255
    canvas[:count] = pixels
    return webp(canvas.reshape(height, width, channels))


def webp(picture: np.ndarray) -> bytes:
    """A lossless WebP of RGB or RGBA bytes [h w c]."""
    import cv2

    swapped = np.ascontiguousarray(picture[..., [2, 1, 0, 3][: picture.shape[2]]].astype(np.uint8))
    done, data = cv2.imencode(".webp", swapped, [cv2.IMWRITE_WEBP_QUALITY, 101])  # above 100 means lossless
    if not done:
        raise RuntimeError("OpenCV was built without WebP")
    return io.BytesIO(data.tobytes()).getvalue()


# --------------------------------------------------------------------------------------------------------------
# Reading


def read_splats(entries: Mapping[str, bytes]) -> dict[str, Tensor]:
    """means, quats (wxyz), log_scales [n 3], opacity (logits), sh [n k 3] of the files of a bundle. Raises KeyError,
    TypeError or ValueError for files that are none."""
    meta = json.loads(entries["meta.json"])
    count = int(meta["count"])
    if meta["version"] != 2 or count < 1:
        raise ValueError("this is no SOG of version 2")
    names = meta["means"]["files"]
    fixed = (
        _pixels(entries[names[0]], count, 3).astype(np.int64)
        | _pixels(entries[names[1]], count, 3).astype(np.int64) << 8
    )
    low, high = (np.array(meta["means"][key], dtype=np.float64).reshape(3) for key in ("mins", "maxs"))
    logged = low + (high - low) * fixed / 65535
    quats = _pixels(entries[meta["quats"]["files"][0]], count, 4).astype(np.float64)
    colors = _pixels(entries[meta["sh0"]["files"][0]], count, 4)
    alpha = np.clip(colors[:, 3] / 255.0, 0.5 / 255, 254.5 / 255)
    sh = _book(meta["sh0"])[colors[:, :3]][:, None]
    if "shN" in meta:
        sh = np.concatenate([sh, _read_harmonics(meta["shN"], entries, count)], 1)
    parts = {
        "means": np.sign(logged) * np.expm1(np.abs(logged)),
        "quats": _unpacked_quats(quats),
        "log_scales": _book(meta["scales"])[_pixels(entries[meta["scales"]["files"][0]], count, 3)],
        "opacity": np.log(alpha / (1 - alpha)),
        "sh": sh,
    }
    if not all(np.isfinite(part).all() for part in parts.values()):
        raise ValueError("not all of its numbers are finite")
    return {name: torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)) for name, part in parts.items()}


def _read_harmonics(meta: Mapping[str, Any], entries: Mapping[str, bytes], count: int) -> np.ndarray:
    """Degree-1 coefficients [n 3 3]: coefficient, colour."""
    size = int(meta["count"])
    width = PALETTE_ROW * BAND_COEFFICIENTS
    table = _pixels(entries[meta["files"][0]], -(-size // PALETTE_ROW) * width, 3)
    palette = _book(meta)[table].reshape(-1, BAND_COEFFICIENTS, 3)
    labels = _pixels(entries[meta["files"][1]], count, 3).astype(np.int64)
    index = labels[:, 0] | labels[:, 1] << 8
    if meta["bands"] != 1 or index.max() >= size:
        raise ValueError("its harmonics do not fit together")
    return palette[index]


def _book(meta: Mapping[str, Any]) -> np.ndarray:
    return np.array(meta["codebook"], dtype=np.float64).reshape(256)


def _unpacked_quats(pixels: np.ndarray) -> np.ndarray:
    largest = pixels[:, 3].astype(np.int64) - 252
    if (largest < 0).any():
        raise ValueError("a rotation is none")
    kept = (pixels[:, :3] / 255 - 0.5) * 2 / _ROOT
    quats = np.zeros((len(pixels), 4))
    others = np.array([[j for j in range(4) if j != i] for i in range(4)])[largest]
    np.put_along_axis(quats, others, kept, 1)
    quats[np.arange(len(quats)), largest] = np.sqrt(np.maximum(1 - (kept**2).sum(1), 0))
    return quats


def _pixels(data: bytes, count: int, channels: int) -> np.ndarray:
    """The first `count` pixels [n c] of an image, in RGB(A) order."""
    import cv2

    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        picture = None
    if (
        picture is None
        or picture.ndim != 3
        or picture.shape[2] < channels
        or picture.shape[0] * picture.shape[1] < count
    ):
        raise ValueError("an image of it is damaged")
    return picture.reshape(-1, picture.shape[2])[:count, [2, 1, 0, 3][:channels]]
