"""A folder with a mesh for every frame: OBJ or PLY, all with the same faces, so that a program can take it as one mesh
that changes shape. Vertices have colours (sRGB); in OBJ they follow the coordinates, as most programs read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fourdgen.report import Reporter, Silent
from fourdgen.scene.formats.sequence import write_frames
from fourdgen.scene.mesh import SkinnedMesh
from fourdgen.scene.scene4d import Scene4D


def write_sequence(folder: Path, scene: Scene4D, mesh: SkinnedMesh, kind: str, report: Reporter = Silent()) -> None:
    """A mesh (kind: obj or ply) for every frame of the reference clip, moved by our own skinning."""
    write = {"obj": write_obj, "ply": write_ply}[kind]

    def frame(path: Path, seconds: float) -> None:
        write(path, mesh.at(scene.motion, scene.reference, seconds))

    write_frames(folder, scene, kind, "ply|obj", frame, report)


def write_obj(path: Path, mesh: SkinnedMesh) -> None:
    """Positions with colours 0..1, normals, triangles."""
    rows = np.concatenate([mesh.vertices.numpy(), mesh.colors.numpy()], 1)
    with path.open("w", encoding="ascii") as file:
        file.write("# made by fourdgen\n")
        file.writelines("v %.6g %.6g %.6g %.4g %.4g %.4g\n" % tuple(row) for row in rows.tolist())  # noqa: UP031
        file.writelines("vn %.4g %.4g %.4g\n" % tuple(row) for row in mesh.normals().tolist())  # noqa: UP031
        file.writelines(f"f {a}//{a} {b}//{b} {c}//{c}\n" for a, b, c in (mesh.faces + 1).tolist())


def write_ply(path: Path, mesh: SkinnedMesh) -> None:
    """Binary: positions and normals as floats, colours as bytes, triangles."""
    vertex = np.zeros(len(mesh.vertices), [("at", "<f4", 3), ("normal", "<f4", 3), ("color", "u1", 3)])
    vertex["at"], vertex["normal"] = mesh.vertices.numpy(), mesh.normals().numpy()
    vertex["color"] = np.round(mesh.colors.clamp(0, 1).numpy() * 255)
    face = np.zeros(len(mesh.faces), [("count", "u1"), ("corner", "<i4", 3)])
    face["count"], face["corner"] = 3, mesh.faces.numpy()
    header = ["ply", "format binary_little_endian 1.0", "comment made by fourdgen", f"element vertex {len(vertex)}"]
    header += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(face)}", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode("ascii") + vertex.tobytes() + face.tobytes())
