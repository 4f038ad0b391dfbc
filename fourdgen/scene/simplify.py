"""Fewer triangles: quadric decimation (Garland and Heckbert 1997) by open3d, the extra `[mesh]`."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from fourdgen.report import FourdgenError


def load_open3d() -> Any:
    """The package open3d. Raises FourdgenError where it is not installed."""
    try:
        return importlib.import_module("open3d")
    except (ImportError, OSError) as error:  # its libraries may lack one of the system's
        raise FourdgenError(
            f"fewer faces (--faces) need the package open3d ({error})",
            "pip install 'fourdgen[mesh]', or leave --faces out",
        ) from None


def simplified(vertices: np.ndarray, faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """About `count` triangles [f 3] and their vertices [v 3] for a mesh that has more; else the mesh itself.

    Raises FourdgenError where open3d is not installed.
    """
    open3d = load_open3d()
    if len(faces) <= count:
        return vertices, faces
    mesh = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(vertices.astype(np.float64)),
        open3d.utility.Vector3iVector(faces.astype(np.int32)),
    )
    mesh = mesh.simplify_quadric_decimation(target_number_of_triangles=count)
    mesh.remove_degenerate_triangles()
    mesh.remove_unreferenced_vertices()
    return np.asarray(mesh.vertices), np.asarray(mesh.triangles).astype(np.int64)
