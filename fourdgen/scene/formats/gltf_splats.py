"""glTF 2.0 binary (.glb) with Gaussian splats of one moment: the extension KHR_gaussian_splatting.

Written from the ratified specification and its schema (github.com/KhronosGroup/glTF, folder
extensions/2.0/Khronos/KHR_gaussian_splatting). Programs that do not know the extension show points with colours
(COLOR_0, linear).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourdgen.scene.formats.gltf import VERTICES, Buffer, glb, linear
from fourdgen.scene.surfels import Surfels, rgb_from_sh
from fourdgen.scene.vertex import flat_scales
from fourdgen.scene.whole import whole_file

NAME = "KHR_gaussian_splatting"


def write(path: Path, surfels: Surfels) -> None:
    """Writes surfels in world space, harmonics in world directions (splats.at_moment). Scales and opacities are
    activated, quaternions xyzw, coefficients as in 3DGS; colour is sRGB."""
    buffer = Buffer()
    opacity = torch.sigmoid(surfels.opacity)[:, None]
    turns = torch.nn.functional.normalize(surfels.quats, dim=1)[:, [1, 2, 3, 0]]
    straight = linear(rgb_from_sh(surfels.sh[:, :1]).clamp(0, 1).numpy().astype(np.float64))
    fallback = np.concatenate([straight, opacity.numpy()], 1)
    columns = {
        "ROTATION": turns,
        "SCALE": flat_scales(surfels).exp(),
        "OPACITY": opacity[:, 0],
        "SH_DEGREE_0_COEF_0": surfels.sh[:, 0],
    }
    columns |= {f"SH_DEGREE_1_COEF_{k}": surfels.sh[:, 1 + k] for k in range(3) if surfels.sh.shape[1] > 1}
    attributes = {
        "POSITION": buffer.add(surfels.means.numpy().astype("<f4"), VERTICES, bounds=True),
        "COLOR_0": buffer.add(np.round(fallback * 65535).astype("<u2"), VERTICES, normalized=True),
    }
    attributes |= {
        f"{NAME}:{name}": buffer.add(values.detach().numpy().astype("<f4"), VERTICES)
        for name, values in columns.items()
    }
    splats = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    root: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "fourdgen"},
        "extensionsUsed": [NAME],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "subject", "mesh": 0}],
        "meshes": [
            {
                "name": "subject",
                "primitives": [{"mode": 0, "attributes": attributes, "extensions": {NAME: splats}}],
            }
        ],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    with whole_file(path) as part:
        part.write_bytes(glb(root, bytes(buffer.data)))
