"""Contact sheets of scored assets: truth | drawn | normals true and drawn | tracks, and the worst held-out pictures.

    python benchmarks/sheets.py --bench DIR --scene fox [--asset fox.ply] [--out sheets] [--worst 5]

One row for each of four instants. In the tracks picture points of the true surface are followed from the clip's first
frame: a line from where each should be to where its surfel has carried it, green where it is right, red where the
error is half of the motion or more. Prints PSNR of the worst pictures, beside it that of the filmed frame of the same
instant (bad there, too: the motion was not found; good there: it is wrong in depth), and which part of the track error
lies along the lines of sight, and what is left without the shift that the whole body has in common.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

import fourdgen
from fourdgen.evaluate.mesh import Mesh, face_normals, rasterize, read_mesh
from fourdgen.evaluate.pictures import draw_as_filmed, shown
from fourdgen.evaluate.tracks import carried_points, outside
from fourdgen.evaluate.truth import Truth, View, read_truth
from fourdgen.fit import metrics
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.transforms import Sim3
from fourdgen.render import pick
from fourdgen.report import FourdgenError
from fourdgen.scene.entries import camera_of
from fourdgen.scene.scene4d import Scene4D

RASTERIZER = pick("auto", "cpu")
SHOWN = 400  # points in a tracks picture
CELL = 256  # pixels


def picture(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """[h w 3] 0..1 as a cell of the sheet, RGB."""
    image = (np.asarray(values).clip(0, 1) * 255).astype(np.uint8)
    return cv2.resize(image, (CELL, CELL), interpolation=cv2.INTER_AREA)


def subject_of(view: View) -> tuple[slice, slice]:
    """The square around the true subject, with some room."""
    return subject_in(view.alpha)


def subject_in(alpha: torch.Tensor) -> tuple[slice, slice]:
    """The square around what is in a silhouette [h w], with some room."""
    box = metrics.mask_box(alpha > 0.5) or (slice(0, alpha.shape[0]), slice(0, alpha.shape[1]))
    side = round(1.25 * max(part.stop - part.start for part in box))
    corners = [max(0, min((part.start + part.stop - side) // 2, size - side)) for part, size in zip(box, alpha.shape)]
    return slice(corners[0], corners[0] + side), slice(corners[1], corners[1] + side)


def true_normals(mesh: Mesh, view: View, camera: Cameras) -> np.ndarray:
    """Colours of the mesh's normals in the camera's axes, on white."""
    _, face = rasterize(mesh, view.entry.frame or 0, camera)
    normal = face_normals(mesh, view.entry.frame or 0) @ camera.cam_from_world[0, :3, :3].double().numpy().T
    normal *= np.where(normal[:, 2:] > 0, -1, 1)
    return np.where(face[..., None] >= 0, 0.5 + 0.5 * normal[face] * (1, -1, -1), 1.0)


def drawn_normals(scene: Scene4D, view: View, camera: Cameras) -> np.ndarray:
    out = fourdgen.draw(scene.at(view.clip, view.seconds), camera)
    normal = out.normal[0] @ camera.cam_from_world[0, :3, :3].T
    alpha = out.alpha[0][..., None]
    return np.asarray(0.5 * alpha + 0.5 * normal * torch.tensor([1.0, -1.0, -1.0]) + 1 - alpha)


def tracks(scene: Scene4D, mesh: Mesh, view: View, root_from_truth: Sim3, camera: Cameras) -> np.ndarray:
    """Lines from true to carried points over a pale picture of the truth."""
    frame = view.entry.frame or 0
    points = outside(mesh, [0, frame])[np.arange(SHOWN)]
    true = points.at(mesh, frame)
    found = carried_points(scene, view.clip, [0, frame], points.at(mesh, 0), root_from_truth)[1]
    error = np.linalg.norm(found - true, axis=1)
    share = error / np.maximum(np.linalg.norm(true - points.at(mesh, 0), axis=1), 0.02 * mesh.radius)
    pixels = [camera.project(torch.from_numpy(p).float())[0][0].numpy() * 8 for p in (true, found)]
    image = np.ascontiguousarray(((0.6 + 0.4 * view.rgb.permute(1, 2, 0).numpy()) * 255).astype(np.uint8))
    for begin, end, wrong in zip(*pixels, share.clip(0, 0.5) * 2, strict=True):
        color = (round(220 * wrong), round(160 * (1 - wrong)), 40)
        cv2.line(image, tuple(begin.astype(int).tolist()), tuple(end.astype(int).tolist()), color, 1, cv2.LINE_AA, 3)
        cv2.circle(image, tuple(end.astype(int).tolist()), 8, color, -1, cv2.LINE_AA, 3)
    return image / 255


def as_filmed(scene: Scene4D, truth: Truth, view: View) -> float | None:
    """PSNR of the filmed frame of a held-out view's instant, in whole; None where there is none with alpha."""
    for entry in truth.inputs:
        if (entry.clip, entry.frame) == (view.clip, view.entry.frame):
            picture = truth.picture(entry)
            clip, state = scene.clips[view.clip], scene.at(view.clip, view.seconds)
            out = draw_as_filmed(clip, state, camera_of(scene, entry), RASTERIZER)
            return None if picture is None else float(metrics.psnr(out.rgb[0].permute(2, 0, 1).clamp(0, 1), picture))
    return None


def track_parts(scene: Scene4D, mesh: Mesh, clip: str, truth: Truth) -> tuple[float, float, float]:
    """Mean track error from three starts over mean true motion: all, its part along the filming camera's lines of
    sight, and what is left without the mean shift of each instant."""
    eyes = {
        e.frame or 0: torch.linalg.inv(e.cam_from_input.double())[:3, 3].numpy() for e in truth.inputs if e.clip == clip
    }
    frames = sorted(eyes)[::4]
    sums = np.zeros(4)
    for start in frames[:: max(1, len(frames) // 3)][:3]:
        points = outside(mesh, [start])
        begin, others = points.at(mesh, start), [frame for frame in frames if frame != start]
        assert scene.world_from_input is not None
        carried = carried_points(scene, clip, [start, *others], begin, scene.world_from_input)[1:]
        for frame, found in zip(others, carried, strict=True):
            true = points.at(mesh, frame)
            error, ray = found - true, true - eyes[frame]
            along = (error * ray).sum(1) / np.linalg.norm(ray, axis=1)
            parts = (error, along[:, None], error - error.mean(0), true - begin)
            sums += [np.linalg.norm(part, axis=1).mean() for part in parts]
    return float(sums[0] / sums[3]), float(sums[1] / sums[3]), float(sums[2] / sums[3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--scene", default="fox")
    parser.add_argument(
        "--asset",
        type=Path,
        help="a scene.ply with known cameras; default: what benchmarks/quality.py made of the scene",
    )
    parser.add_argument("--out", type=Path, default=Path("build/sheets"))
    parser.add_argument("--worst", type=int, default=5, help="how many of the worst pictures, 0 for none")
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    if given.worst < 0:
        parser.error(f"--worst {given.worst}: give 0 or more")
    given.asset = given.asset or Path("build/quality") / f"{given.scene.replace('/', '_')}.known.-.s0.ply"
    try:
        sheets(given)
    except FourdgenError as error:
        sys.exit(str(error))


@torch.no_grad()
def sheets(given: argparse.Namespace) -> None:
    """Draws and prints. Raises FourdgenError for an asset or a scene that cannot be read."""
    scene = fourdgen.load(given.asset)
    if scene.world_from_input is None:
        raise FourdgenError(f"{given.asset}: its cameras were found", "sheets need an asset with known cameras")
    truth = read_truth(Path(given.bench) / given.scene, scene)
    given.out.mkdir(parents=True, exist_ok=True)
    name = given.scene.replace("/", "_")
    scored = []
    for view in truth.views:
        out = shown(scene, view, scene.world_from_input, RASTERIZER)
        drawn = out.rgb[0].permute(2, 0, 1).clamp(0, 1)
        scored.append((float(metrics.psnr(drawn, view.rgb)), view, drawn))
    scored.sort(key=lambda row: row[0])

    rows = []
    views = [view for view in truth.views if view.entry.frame]
    for view in views[:: max(1, len(views) // 4)][:4]:
        mesh = read_mesh(truth.folder, view.clip)
        true = Cameras(view.entry.cam_from_input[None].float(), view.entry.K.float()[None], view.entry.size)
        ours = camera_of(scene, view.entry)
        drawn = shown(scene, view, scene.world_from_input, RASTERIZER).rgb[0]
        cells: list[torch.Tensor | np.ndarray] = [view.rgb.permute(1, 2, 0), drawn.clamp(0, 1)]
        if mesh is not None:
            cells += [true_normals(mesh, view, true), drawn_normals(scene, view, ours)]
            cells.append(tracks(scene, mesh, view, scene.world_from_input, true))
        rows.append(np.concatenate([picture(np.asarray(cell)[subject_of(view)]) for cell in cells], 1))
    if rows:
        cv2.imwrite(str(given.out / f"{name}.png"), np.concatenate(rows)[..., ::-1])

    columns = []
    for psnr, view, drawn in scored[: given.worst]:
        error = (drawn - view.rgb).abs().mean(0, keepdim=True).expand(3, -1, -1) * 3
        parts = [picture(p.permute(1, 2, 0)[subject_of(view)]) for p in (view.rgb, drawn, 1 - error)]
        columns.append(np.concatenate(parts))
        filmed = as_filmed(scene, truth, view)
        beside = "" if filmed is None else f"  as filmed {filmed:.1f} dB"
        print(f"{psnr:.2f} dB  {view.entry.file_path}  clip {view.clip} frame {view.entry.frame}{beside}")
    if columns:
        cv2.imwrite(str(given.out / f"{name}_worst.png"), np.concatenate(columns, 1)[..., ::-1])
    mesh = read_mesh(truth.folder, scored[0][1].clip)
    if mesh is not None:
        whole, along, left = track_parts(scene, mesh, scored[0][1].clip, truth)
        print(f"tracks {whole:.0%} wrong, {along:.0%} along the lines of sight, {left:.0%} without the common shift")
    print(*(given.out / f"{name}{end}.png" for end, made in (("", rows), ("_worst", columns)) if made))


if __name__ == "__main__":
    main()
