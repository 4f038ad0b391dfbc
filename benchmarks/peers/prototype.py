"""The rasterizer that the kernels grew out of: rast.cpp with its binding, compiled where it may be written."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Prototype:
    name = "prototype"

    def __init__(self, sources: Path) -> None:
        folder = Path(tempfile.mkdtemp()) / "prototype"
        shutil.copytree(sources, folder)
        subprocess.run(["bash", "build.sh", "v.so", "-fopenmp", "-DUSE_OMP", "-DTS=64"], cwd=folder, check=True)
        spec = importlib.util.spec_from_file_location("cpp_rast", folder / "cpp_rast.py")
        assert spec is not None and spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.library = self.module.Lib(str(folder / "v.so"))

    def draw(self, case: Any, threads: int) -> list[Tensor]:
        """rgb [1 3 h w], depth, normal, alpha of the one view."""
        width, height = case.size
        pose, K = case.cameras.cam_from_world[0], case.cameras.K[0]
        # the function under its own rasterize(), whose pictures lie as ours do
        color, depth, normal, alpha, _ = self.module.Rast.apply(
            *case.leaves, pose, K, width, height, None, threads, False, self.library
        )
        return [torch.unsqueeze(t, 0) for t in (color, depth, normal, alpha)]
