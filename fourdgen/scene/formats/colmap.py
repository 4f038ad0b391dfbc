"""The cameras as a COLMAP model in text: cameras.txt, images.txt, points3D.txt (https://colmap.github.io/format.html)."""

from __future__ import annotations

from pathlib import Path

import torch

from fourdgen.geometry.transforms import quat_from_matrix
from fourdgen.scene.entries import entries_of
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.surfels import rgb_from_sh
from fourdgen.scene.whole import whole_folder

FILES = r"(cameras|images|points3D)\.txt"


def write(folder: Path, scene: Scene4D) -> None:
    """One PINHOLE camera for each different one, an image for each frame (named as in cameras.json, or
    CLIP/FRAME.png), and as points the surfels at the first frame of the reference clip. Coordinates as in cameras.json.

    Raises FourdgenError where the folder holds other files, or cannot be written.
    """
    entries = entries_of(scene)
    numbers: dict[str, int] = {}
    images = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; an empty line of points follows each"]
    for number, entry in enumerate(entries, 1):
        K = entry.K.double()
        lens = " ".join(f"{float(x):.10g}" for x in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
        camera = numbers.setdefault(f"PINHOLE {entry.size[0]} {entry.size[1]} {lens}", len(numbers) + 1)
        pose = entry.cam_from_input.double()
        turn = quat_from_matrix(pose[:3, :3]).tolist()
        values = " ".join(f"{x:.12g}" for x in (*turn, *pose[:3, 3].tolist()))
        name = entry.file_path or f"{entry.clip}/{entry.frame or 0:05d}.png"  # frames of a video have no file
        images += [f"{number} {values} {camera} {'_'.join(name.split())}", ""]
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", *(f"{number} {text}" for text, number in numbers.items())]
    state = scene.at(scene.reference, float(scene.clips[scene.reference].seconds[0]))
    means = state.means.double()
    if scene.world_from_input is not None:
        means = scene.world_from_input.inverse().apply(means)
    colors = (rgb_from_sh(state.sh[:, :1]).clamp(0, 1) * 255).round().int()
    solid = torch.sigmoid(state.opacity) > 0.1
    points = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]"]
    for number, (at, color) in enumerate(zip(means[solid].tolist(), colors[solid].tolist()), 1):
        points.append(f"{number} {at[0]:.9g} {at[1]:.9g} {at[2]:.9g} {color[0]} {color[1]} {color[2]} 0")
    with whole_folder(folder, FILES) as part:
        for name, text in (("cameras", lines), ("images", images), ("points3D", points)):
            (part / f"{name}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
