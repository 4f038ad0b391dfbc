"""A man filmed by two still cameras: his outline in the one that did not train, and a side that nobody filmed.

    python benchmarks/person.py --bench DIR [--out DIR] [--found] [-- further words for reconstruct]

First cam01 trains alone, with its true camera, and the silhouette is held against cam03's masks (the cameras are
synchronised; the masks are good to a few pixels). How far away he is one still camera cannot tell, so the distance, one
number, is the one that suits cam03 best. Then both train and both outlines are compared. The masks are given,
or found (--found). --out gets one sheet for each: six instants; filmed and drawn in cam01, filmed and drawn in cam03,
then from both sides of the line between the cameras. Finished reconstructions are not run again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from masks import files_of, truth
from torch import Tensor

import fourdgen
from fourdgen.data.cameras_io import CameraEntry, read_camera_entries
from fourdgen.data.video import read_video
from fourdgen.fit import metrics
from fourdgen.geometry.camera import Cameras, look_at
from fourdgen.geometry.transforms import Sim3, rigid_inverse
from fourdgen.scene.entries import camera_of, seconds_of
from fourdgen.scene.scene4d import Scene4D

CAMERAS = ("cam01", "cam03")
TRAINED = {"cam01 alone": ("cam01",), "both cameras": CAMERAS}
SHOWN = 6
WHITE = torch.ones(3)


def aside(scene: Scene4D, first: CameraEntry, second: CameraEntry) -> list[Cameras]:
    """From both sides of the line between two cameras, level, at their mean distance."""
    ours = [camera_of(scene, entry) for entry in (first, second)]
    eyes = torch.stack([rigid_inverse(camera.cam_from_world)[0, :3, 3] for camera in ours])
    line = eyes[0] - eyes[1]
    across = torch.nn.functional.normalize(torch.stack([line[2], torch.tensor(0.0), -line[0]]), dim=0)
    eye = eyes.norm(dim=1).mean() * across
    return [Cameras(look_at(way * eye[None]), ours[0].K, ours[0].size) for way in (1.0, -1.0)]


def cell(picture: np.ndarray | Tensor) -> np.ndarray:
    """[h w 3] 0..1 as a part of the sheet, RGB."""
    return cv2.resize((np.asarray(picture).clip(0, 1) * 255).astype(np.uint8), (135, 240), interpolation=cv2.INTER_AREA)


def outline_iou(scene: Scene4D, entry: CameraEntry, mask: np.ndarray, mapping: Sim3 | None = None) -> float:
    state = scene.at(scene.reference, seconds_of(scene.clips[scene.reference], entry.frame or 0))
    out = fourdgen.draw(state, camera_of(scene, entry, mapping), WHITE)
    return float(metrics.iou(out.alpha > 0.5, torch.from_numpy(mask > 127)[None])[0])


def farther(scene: Scene4D, entry: CameraEntry, factor: float) -> Sim3:
    """The scene's mapping with the subject `factor` times as far from a camera, and as much larger."""
    assert scene.world_from_input is not None
    eye = torch.linalg.inv(entry.cam_from_input.double())[:3, 3]
    nearer = Sim3(1 / factor, torch.eye(3, dtype=torch.float64), (1 - 1 / factor) * eye)
    return scene.world_from_input.compose(nearer)


@torch.no_grad()
def judge(asset: Path, bench: Path, sheet: Path) -> dict[str, float]:
    """Mean IoU of the outline in each camera; draws the sheet."""
    scene = fourdgen.load(asset)
    entries = read_camera_entries(bench / "person" / "transforms.json")
    seen: dict[str, list[tuple[CameraEntry, np.ndarray, np.ndarray]]] = {}
    for name in CAMERAS:
        video, paths = files_of(bench, f"person/{name}")
        filmed = [frame.picture[..., :3] for frame in read_video(video)]
        mine = sorted((e for e in entries if e.clip == name), key=lambda e: e.frame or 0)
        seen[name] = [(e, truth(paths[e.frame or 0], e.size), filmed[e.frame or 0]) for e in mine]
    shown = np.linspace(0, len(seen[CAMERAS[0]]) - 1, SHOWN).round().astype(int).tolist()
    mapping, found = scene.world_from_input, {}
    if len(scene.clips) == 1:
        sample = [seen[CAMERAS[1]][i] for i in shown]
        tried = [farther(scene, seen[CAMERAS[0]][0][0], 2**power) for power in np.linspace(-1.5, 1.5, 31).tolist()]
        mapping = max(tried, key=lambda m: sum(outline_iou(scene, entry, mask, m) for entry, mask, _ in sample))
    rows = []
    for name, views in seen.items():
        found[name] = float(np.mean([outline_iou(scene, entry, mask, mapping) for entry, mask, _ in views]))
        rows.append([cell(np.where(views[i][1][..., None] > 127, views[i][2] / 255, 1)) for i in shown])
        rows.append([cell(pictured(scene, i, camera_of(scene, views[i][0], mapping))) for i in shown])
    for camera in aside(scene, seen[CAMERAS[0]][0][0], seen[CAMERAS[1]][0][0]):
        rows.append([cell(pictured(scene, i, camera)) for i in shown])
    cv2.imwrite(str(sheet), np.concatenate([np.concatenate(row, 1) for row in rows])[..., ::-1])
    return found


def pictured(scene: Scene4D, frame: int, camera: Cameras) -> Tensor:
    return fourdgen.draw(scene.at(scene.reference, seconds_of(scene.clips[scene.reference], frame)), camera, WHITE).rgb[
        0
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--out", type=Path, default=Path("build/person"))
    parser.add_argument("--found", action="store_true", help="with found masks")
    parser.add_argument("further", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.bench is None:
        parser.error("--bench DIR or FOURDGEN_BENCH is needed")
    person = Path(given.bench) / "person"
    given.out.mkdir(parents=True, exist_ok=True)
    for label, clips in TRAINED.items():
        asset = given.out / f"{'_'.join(clips)}{'_found' if given.found else ''}.ply"
        masks = [] if given.found else ["--masks", str(person / "masks")]
        videos = [str(person / "clips" / f"{clip}.mp4") for clip in clips]
        command = [
            sys.executable, "-m", "fourdgen.cli", "reconstruct", *videos, "-o", str(asset), *masks,
            "--cameras", str(person / "transforms.json"), *(["--sync"] if len(clips) > 1 else []),
            "-p", "fast", "--threads", "1", *(word for word in given.further if word != "--"),
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        scores = judge(asset, Path(given.bench), asset.with_suffix(".png"))
        print(f"{label}: outline IoU " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()), flush=True)


if __name__ == "__main__":
    main()
