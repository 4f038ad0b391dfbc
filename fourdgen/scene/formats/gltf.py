"""glTF 2.0 binary (.glb): a skinned mesh with vertex colours or a texture and one animation for each clip.

Written from the Khronos specification. Colours are linear there and sRGB here; the material is unlit, because the
colours hold the light of the filmed scene already.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourdgen.data.capture import png_bytes
from fourdgen.scene.joints import JointMotion
from fourdgen.scene.mesh import SkinnedMesh, Texture, unwelded
from fourdgen.scene.whole import whole_file

_FLOAT, _UINT, _USHORT, _UBYTE = 5126, 5125, 5123, 5121
VERTICES, INDICES = 34962, 34963  # what a buffer view is for
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Buffer:
    """The binary part under construction, with accessors and buffer views of what was added."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, values: np.ndarray, target: int | None = None, normalized: bool = False, bounds: bool = False) -> int:
        """Number of the new accessor of rows [n c] or [n]; rows must be multiples of four bytes."""
        kind = {"f4": _FLOAT, "u4": _UINT, "u2": _USHORT, "u1": _UBYTE}[values.dtype.str[1:]]
        self.data += b"\0" * (-len(self.data) % 4)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": values.nbytes}
        self.views.append(view | ({"target": target} if target else {}))
        self.data += np.ascontiguousarray(values).tobytes()
        width = 1 if values.ndim == 1 else values.shape[1]
        accessor: dict[str, Any] = {
            "bufferView": len(self.views) - 1, "componentType": kind, "count": len(values), "type": _KINDS[width],
        }  # fmt: skip
        if normalized:
            accessor["normalized"] = True
        if bounds:
            rows = values.reshape(len(values), -1)
            accessor |= {"min": rows.min(0).tolist(), "max": rows.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def raw(self, data: bytes) -> int:
        """Number of the new buffer view of bytes that no accessor describes."""
        self.data += b"\0" * (-len(self.data) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)})
        self.data += data
        return len(self.views) - 1


def write_glb(
    path: Path,
    mesh: SkinnedMesh,
    centers: torch.Tensor | None = None,
    animations: Mapping[str, JointMotion] | None = None,
    texture: Texture | None = None,
) -> None:
    """Writes the mesh; with `centers` [b 3] (where joints are at rest) and their motions by name, a skinned one that
    is animated. With a `texture` its colours stand there, else at the vertices."""
    buffer = Buffer()
    normals = mesh.normals()
    if texture is not None:
        mesh, normals = unwelded(mesh)
    attributes = {
        "POSITION": buffer.add(mesh.vertices.numpy().astype("<f4"), VERTICES, bounds=True),
        "NORMAL": buffer.add(normals.numpy().astype("<f4"), VERTICES),
    }
    if texture is None:
        attributes["COLOR_0"] = buffer.add(_colors(mesh), VERTICES, normalized=True)
    else:
        attributes["TEXCOORD_0"] = buffer.add(texture.uv.reshape(-1, 2).numpy().astype("<f4"), VERTICES)
    faces = buffer.add(mesh.faces.numpy().astype("<u4").reshape(-1), INDICES)
    root: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "fourdgen"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "subject", "mesh": 0}],
        "materials": [
            {
                "name": "filmed",
                "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
                "doubleSided": True,
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "meshes": [{"name": "subject", "primitives": [{"attributes": attributes, "indices": faces, "material": 0}]}],
    }
    if texture is not None:
        root["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        root["textures"] = [{"source": 0, "sampler": 0}]
        root["samplers"] = [{"magFilter": 9729, "minFilter": 9729, "wrapS": 33071, "wrapT": 33071}]  # linear, clamped
        root["images"] = [{"mimeType": "image/png", "bufferView": buffer.raw(png_bytes(texture.picture, 9))}]
    if centers is not None and animations:
        assert mesh.bone_ids is not None and mesh.bone_weights is not None
        weights = _weights(mesh.bone_weights.numpy())
        ids = np.where(weights > 0, mesh.bone_ids.numpy(), 0)  # who has no weight must not be named
        attributes["JOINTS_0"] = buffer.add(ids.astype(_id_type(len(centers))), VERTICES)
        attributes["WEIGHTS_0"] = buffer.add(weights, VERTICES, normalized=True)
        _add_skin(root, buffer, centers.numpy().astype(np.float64))
        root["animations"] = [_animation(buffer, name, part, centers) for name, part in animations.items()]
    root |= {"accessors": buffer.accessors, "bufferViews": buffer.views, "buffers": [{"byteLength": len(buffer.data)}]}
    with whole_file(path) as part:
        part.write_bytes(glb(root, bytes(buffer.data)))


def glb(root: Mapping[str, Any], binary: bytes) -> bytes:
    """The container: a header, the JSON chunk, the binary chunk."""
    text = json.dumps(root, separators=(",", ":"), allow_nan=False).encode("ascii")
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    size = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<4sII", b"glTF", 2, size)
    return head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary


def linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values 0..1 (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _colors(mesh: SkinnedMesh) -> np.ndarray:
    """Linear RGBA in 16 bits: in 8, dark colours would show steps."""
    straight = linear(mesh.colors.clamp(0, 1).numpy().astype(np.float64))
    return np.round(np.concatenate([straight, np.ones((len(straight), 1))], 1) * 65535).astype("<u2")


def _weights(weights: np.ndarray) -> np.ndarray:
    """16-bit weights whose sum is exactly 1, as the format wants it."""
    fixed = np.floor(weights.astype(np.float64) * 65535).astype(np.int64)
    fixed[np.arange(len(fixed)), weights.argmax(1)] += 65535 - fixed.sum(1)
    return fixed.astype("<u2")


def _id_type(count: int) -> str:
    return "<u1" if count <= 256 else "<u2"


def _add_skin(root: dict[str, Any], buffer: Buffer, centers: np.ndarray) -> None:
    """Joints side by side: each bone's motion is known as a whole, so none hangs on another."""
    first = len(root["nodes"]) + 1
    joints = list(range(first, first + len(centers)))
    root["nodes"].append({"name": "joints", "children": joints})
    root["scenes"][0]["nodes"].append(first - 1)
    for number, center in enumerate(centers):
        root["nodes"].append({"name": f"bone_{number:02d}", "translation": [float(x) for x in center]})
    inverse = np.tile(np.eye(4, dtype="<f4"), (len(centers), 1, 1))
    inverse[:, 3, :3] = -centers  # column-major: the translation is the last column
    root["skins"] = [
        {"joints": joints, "skeleton": first - 1, "inverseBindMatrices": buffer.add(inverse.reshape(-1, 16))}
    ]
    root["nodes"][0]["skin"] = 0


def _animation(buffer: Buffer, name: str, motion: JointMotion, centers: torch.Tensor) -> dict[str, Any]:
    """Rotation and translation of every joint. Time begins at 0, as programs expect it."""
    from fourdgen.geometry.transforms import quat_rotate

    times = buffer.add((motion.seconds - motion.seconds[0]).numpy().astype("<f4"), bounds=True)
    # A joint stands at its centre: where the centre goes is its translation.
    places = quat_rotate(motion.rotations, centers.expand_as(motion.translations)) + motion.translations
    turns = torch.nn.functional.normalize(motion.rotations, dim=-1)[..., [1, 2, 3, 0]]  # the format has xyzw
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []
    for joint in range(len(centers)):
        for path, values in (("rotation", turns[:, joint]), ("translation", places[:, joint])):
            output = buffer.add(values.numpy().astype("<f4"))
            channels.append({"sampler": len(samplers), "target": {"node": 2 + joint, "path": path}})
            samplers.append({"input": times, "output": output, "interpolation": "LINEAR"})
    return {"name": name, "samplers": samplers, "channels": channels}
