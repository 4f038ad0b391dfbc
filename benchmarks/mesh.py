"""Exported meshes against the true surface of bench scenes: Chamfer distance in per cent of the subject's radius.

    python benchmarks/mesh.py --bench DIR [--assets fox=fox.ply,knight=knight.ply] [--set smooth=0.5] [--points 200000]

The mesh is that of `fourdgen export --format mesh-seq`, at five frames of clip a. Without --assets the scenes fox,
shiba and knight are reconstructed as `fast` does, with the cameras that the bench gives (a minute each). Truth is
50 000 points of the true surface; accuracy counts from the mesh to them, completeness from those of 8000 that can be
seen from outside to the mesh. A mesh is a surface and not points: with fewer --points the gaps between them count.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

import fourdgen
from fourdgen.evaluate.mesh import Mesh, read_mesh, scatter, surround, visible
from fourdgen.geometry.transforms import Sim3
from fourdgen.playback.surface import SurfaceConfig, surface
from fourdgen.render import pick
from fourdgen.scene import files
from fourdgen.scene.entries import seconds_of
from fourdgen.scene.mesh import SkinnedMesh
from fourdgen.scene.scene4d import Scene4D

CLIP = "a"
INSTANTS = 5  # frames of the clip
TRUE_POINTS, SEEN_POINTS, SIDE = 50_000, 8_000, 160


def chamfer(mesh: SkinnedMesh, scene: Scene4D, truth: Mesh, points: int) -> tuple[float, float]:
    """(accuracy, completeness) in per cent of the radius, mean over the frames."""
    cameras = surround(truth.center, truth.radius, side=SIDE)
    input_from_root = (scene.world_from_input or Sim3.identity()).inverse()
    rows = []
    for frame in np.linspace(0, len(truth.vertices) - 1, INSTANTS).astype(int).tolist():
        true = scatter(truth, frame, TRUE_POINTS).at(truth, frame)
        checked = true[:SEEN_POINTS]
        checked = checked[visible(truth, frame, checked, cameras).any(0)]
        now = mesh.at(scene.motion, CLIP, seconds_of(scene.clips[CLIP], frame))
        triangles = trimesh.Trimesh(now.vertices.numpy(), now.faces.numpy(), process=False)
        on, _ = trimesh.sample.sample_surface(triangles, points, seed=0)
        ours = input_from_root.apply(torch.from_numpy(np.asarray(on))).numpy()
        rows.append((cKDTree(true).query(ours)[0].mean(), cKDTree(ours).query(checked)[0].mean()))
    accuracy, completeness = 100 * np.mean(rows, 0) / truth.radius
    return float(accuracy), float(completeness)


def configured(texts: list[str]) -> SurfaceConfig:
    """The settings of the mesh with some changed: `smooth=0.5`."""
    kinds = {field.name: type(field.default) for field in fields(SurfaceConfig)}
    pairs = [text.partition("=") for text in texts]
    if unknown := [name for name, _, _ in pairs if name not in kinds]:
        raise SystemExit(f"--set {unknown[0]}: no such setting of {', '.join(kinds)}")
    return SurfaceConfig(**{name: kinds[name](value) for name, _, value in pairs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--assets", default="", help="NAME=FILE,...; default: fox, shiba and knight are made")
    parser.add_argument("--out", type=Path, default=Path("build/mesh"), help="where they are made")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of SurfaceConfig; repeatable")
    parser.add_argument("--points", type=int, default=200_000, help="on the mesh")
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    config = configured(given.set)
    assets = dict(text.split("=", 1) for text in given.assets.split(",") if text)
    for name in assets or ("fox", "shiba", "knight"):
        folder = Path(given.bench) / name
        path = Path(assets[name]) if name in assets else given.out / f"{name}.ply"
        if name not in assets:
            clips = [folder / "rgba" / clip for clip in ("a", "b")]
            fourdgen.reconstruct(clips, path, cameras=folder / "transforms.json", pipeline="fast")
        truth, scene = read_mesh(folder / "truth", CLIP), files.read(path)
        if truth is None:
            raise SystemExit(f"{folder}/truth holds no mesh of clip {CLIP}")
        begun = time.process_time()
        mesh = surface(scene, pick("cpu"), config)
        spent = time.process_time() - begun
        near, whole = chamfer(mesh, scene, truth, given.points)
        print(
            f"{name}: chamfer {(near + whole) / 2:.2f} (accuracy {near:.2f}, completeness {whole:.2f}), "
            f"{len(mesh.vertices)} vertices, {spent:.1f} CPU-seconds",
            flush=True,
        )


if __name__ == "__main__":
    main()
