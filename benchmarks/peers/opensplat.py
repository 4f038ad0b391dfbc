"""OpenSplat's CPU rasterizer: 3D Gaussians, colours only. Its sources are under the AGPL and never part of fourdgen."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHIM = """
#include "project_gaussians.hpp"
#include "rasterize_gaussians.hpp"
#include <torch/library.h>
static torch::Tensor draw(torch::Tensor means, torch::Tensor scales, torch::Tensor quats, torch::Tensor colors,
    torch::Tensor opacities, torch::Tensor view, torch::Tensor projection, torch::Tensor background,
    double fx, double fy, double cx, double cy, int64_t h, int64_t w) {
  auto p = ProjectGaussiansCPU::apply(means, scales, 1.f, quats, view, projection, fx, fy, cx, cy, h, w, 0.01f);
  return RasterizeGaussiansCPU::apply(p[0], p[1], p[2], colors, opacities, p[3], p[4], h, w, background);
}
TORCH_LIBRARY(opensplat_peer, m) { m.def("draw", &draw); }
"""


class OpenSplat:
    name = "OpenSplat"

    def __init__(self, sources: Path) -> None:
        from torch.utils.cpp_extension import load

        folder = Path(tempfile.gettempdir()) / "opensplat_peer"  # kept: it takes a minute to compile
        folder.mkdir(exist_ok=True)
        if not (folder / "shim.cpp").exists():
            (folder / "shim.cpp").write_text(SHIM, encoding="utf-8")
        sources = sources.resolve()
        files = ["project_gaussians.cpp", "rasterize_gaussians.cpp", "rasterizer/gsplat-cpu/gsplat_cpu.cpp"]
        load(
            name="opensplat_peer", sources=[str(folder / "shim.cpp"), *(str(sources / file) for file in files)],
            extra_include_paths=[str(sources), str(sources / "rasterizer")], extra_cflags=["-O3", "-march=native"],
            build_directory=str(folder), is_python_module=False,
        )  # fmt: skip

    def draw(self, case: Any, threads: int) -> list[Tensor]:
        """rgb [1 3 h w] of the one view; threads are torch's."""
        means, quats, scales, opacities, colors = case.leaves
        (width, height), K, pose = case.size, case.cameras.K[0], case.cameras.cam_from_world[0]
        fx, fy, cx, cy = (float(K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
        near, far = 0.001, 1000.0
        projection = torch.zeros(4, 4)
        projection[0, 0], projection[1, 1] = 2 * fx / width, 2 * fy / height
        projection[2, 2], projection[2, 3], projection[3, 2] = (
            (far + near) / (far - near),
            -far * near / (far - near),
            1,
        )
        flat = torch.cat([scales, torch.full_like(scales[:, :1], math.exp(-12))], 1)
        image = torch.ops.opensplat_peer.draw(
            means, flat, quats, colors, opacities[:, None], pose, projection @ pose, torch.zeros(3), fx, fy, cx, cy,
            height, width,
        )  # fmt: skip
        return [image.permute(2, 0, 1)[None]]
