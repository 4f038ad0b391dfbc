"""Surfels as the vertices of a Gaussian splat file: the columns that every viewer knows, and our own after them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.transforms import quat_multiply
from fourdgen.report import FourdgenError
from fourdgen.scene.ply import matrix, table
from fourdgen.scene.surfels import Surfels, normal_axis

BONES = 4  # per surfel in a file
FLATNESS = 1e-4  # third scale of a surfel, as a share of the median scale: viewers want one, and it must look flat

_CENTER = ("x", "y", "z")
_NORMAL = ("nx", "ny", "nz")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALE = ("scale_0", "scale_1", "scale_2")
_ROT = ("rot_0", "rot_1", "rot_2", "rot_3")
_BONE = tuple(f"bone_{i}" for i in range(BONES))
_WEIGHT = tuple(f"weight_{i}" for i in range(BONES))
_SECOND_BRANCH = tuple(f"refine_{i}" for i in range(5))  # only in files of earlier versions
_LARGEST_LOG_SCALE = 40.0  # e^40 root units: anything larger is not a length, and its square no longer a float32


def splat_columns(surfels: Surfels) -> tuple[list[str], np.ndarray]:
    """Names and values [n c] float32 of the columns of a static 3DGS file, in their customary order."""
    if len(surfels) == 0:
        raise ValueError("a scene without surfels cannot be written")
    count = len(surfels)
    rest = surfels.sh[:, 1:].transpose(1, 2).reshape(count, -1)  # all of red, then green, then blue
    columns = [
        (_CENTER, surfels.means),
        (_NORMAL, normal_axis(surfels.quats)),
        (_DC, surfels.sh[:, 0]),
        (tuple(f"f_rest_{i}" for i in range(rest.shape[1])), rest),
        (("opacity",), surfels.opacity[:, None]),
        (_SCALE, flat_scales(surfels)),
        (_ROT, surfels.quats),
    ]
    names = [name for part, _ in columns for name in part]
    return names, torch.cat([values.detach().cpu().float() for _, values in columns], 1).numpy()


def flat_scales(surfels: Surfels) -> Float[Tensor, "n 3"]:
    """Logs of three scales: the surfels' own two, and a third that is thin."""
    thin = (surfels.log_scales.exp().median() * FLATNESS).log()
    return torch.cat([surfels.log_scales, thin.expand(len(surfels), 1)], 1)


def vertex_table(surfels: Surfels) -> np.ndarray:
    """The `vertex` element of a scene.ply. Surfels without skinning get zeros there."""
    names, values = splat_columns(surfels)
    count = len(surfels)
    bones = np.zeros((count, 2 * BONES), dtype=np.float32)
    if surfels.bone_ids is not None and surfels.bone_weights is not None:
        kept = surfels.bone_ids.shape[1]
        if kept > BONES:
            raise ValueError(f"{kept} bones a surfel; a file holds {BONES}")
        bones[:, :kept] = surfels.bone_ids.detach().cpu().numpy()
        bones[:, BONES : BONES + kept] = surfels.bone_weights.detach().cpu().numpy()
    confidence = surfels.confidence.detach().cpu().float().numpy()[:, None]
    names += [*_BONE, *_WEIGHT, "confidence"]
    return table(names, np.concatenate([values, bones, confidence], axis=1))


def surfels_from_vertex(path: object, vertex: np.ndarray, skinned: bool) -> tuple[Surfels, int]:
    """Surfels of a `vertex` element, and how many vertices were left out because they are no surfels (not finite, no
    rotation, absurdly large).

    A Gaussian of three scales that is not ours becomes a surfel across its thinnest axis. Harmonics above degree 1 are
    left out. `path` is only named in errors (FourdgenError).
    """
    have = set(vertex.dtype.names or ())
    missing = [name for name in (*_CENTER, *_DC, "opacity", *_SCALE[:2], *_ROT) if name not in have]
    if missing:
        raise FourdgenError(
            f"{path} holds no Gaussian splats: its vertices have no {', '.join(missing)}",
            "give a scene.ply, or an uncompressed 3DGS .ply",
        )
    for name in (*_CENTER, *_DC, "opacity", *_SCALE[:2], *_ROT):
        # No Gaussian fits into bytes; unpacking them to float32 would take several times the file's size, too.
        if vertex.dtype[name].itemsize < 4:
            raise FourdgenError(
                f"{path} holds no Gaussian splats: {name} is no float", "give an uncompressed 3DGS .ply"
            )
    ours = "confidence" in have and "bone_0" in have
    scales, quats = _floats(vertex, _SCALE[:2]), _floats(vertex, _ROT)
    if not ours and "scale_2" in have:
        scales, quats = _flattened(_floats(vertex, _SCALE), quats)
    rest_count = sum(f"f_rest_{i}" in have for i in range(45))
    degree_one = rest_count // 3 if rest_count in (9, 24, 45) else 0
    sh = _floats(vertex, _DC)[:, None]
    if degree_one:
        first = [f"f_rest_{color * degree_one + j}" for j in range(3) for color in range(3)]
        sh = np.concatenate([sh, _floats(vertex, first).reshape(-1, 3, 3)], axis=1)
    ones = np.ones(len(vertex), np.float32)
    parts = {
        "means": _floats(vertex, _CENTER), "quats": quats, "log_scales": scales,
        "opacity": _floats(vertex, ("opacity",))[:, 0], "sh": sh,
        "confidence": _floats(vertex, ("confidence",))[:, 0] if "confidence" in have else ones,
    }  # fmt: skip
    if skinned:
        _require(path, have, (*_BONE, *_WEIGHT))
        parts["bone_ids"], parts["bone_weights"] = _floats(vertex, _BONE), _floats(vertex, _WEIGHT)
    good = (np.abs(scales) < _LARGEST_LOG_SCALE).all(axis=1)
    for values in parts.values():
        for column in values.reshape(len(values), -1).T:
            good &= np.abs(column) < 1e18  # False for NaN too; squares stay finite
    with np.errstate(over="ignore", invalid="ignore"):
        good &= (quats * quats).sum(axis=1) > 1e-18
    if not good.any():
        raise FourdgenError(f"{path} holds no usable surfel", "write it again")
    tensors = {}
    for name in list(parts):  # one after the other, so that nothing is in memory twice at once
        values = parts.pop(name)
        tensors[name] = torch.from_numpy(values if good.all() else values[good])
    if skinned:
        tensors["bone_ids"] = tensors["bone_ids"].int()
    return Surfels(**tensors), int((~good).sum())


def has_second_branch(vertex: np.ndarray) -> bool:
    """Whether a `vertex` element holds rotations and sizes of the refined branch, which is not drawn any more."""
    return any(bool(vertex[name].any()) for name in _SECOND_BRANCH if name in (vertex.dtype.names or ()))


def _require(path: object, have: set[str], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in have]
    if missing:
        raise FourdgenError(f"{path} is damaged: its vertices have lost {', '.join(missing)}", "write it again")


def _floats(vertex: np.ndarray, names: tuple[str, ...] | list[str]) -> np.ndarray:
    with np.errstate(over="ignore"):  # what does not fit into a float32 becomes infinite and is sorted out later
        return matrix(vertex, names).astype(np.float32, copy=False)


def _flattened(scales: np.ndarray, quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log scales [n 2] and quaternions of Gaussians with three scales; the thinnest axis becomes the third."""
    thinnest = np.argmin(scales, axis=1)  # a row with NaN is sorted out later, wherever this points
    order = (thinnest[:, None] + np.array([[1, 2]])) % 3
    # A cyclic change of axes is a turn by 120 degrees about (1, 1, 1): e0 -> e1 -> e2 -> e0.
    turns = np.array([[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, -0.5, -0.5], [1, 0, 0, 0]], dtype=np.float32)[thinnest]
    turned = quat_multiply(torch.from_numpy(quats), torch.from_numpy(turns))
    return np.take_along_axis(scales, order, axis=1), turned.numpy()
