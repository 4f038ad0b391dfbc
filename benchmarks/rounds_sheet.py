"""Picture of what a round does: a new view on its way into training, and held-out views before and after.

    python benchmarks/rounds_sheet.py --bench DIR --out DIR [--scene fox] [--seed 0] [--picture regenerate.png]

--out is that of benchmarks/regenerate.py, which has made the assets: kinds fill, damaged and perfect are shown. Of the
held-out views the one is taken that `perfect` gained fourth most on, and the one in the middle; below each is twice its
error.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from regenerate import RASTERIZER, mapping_of, pipeline_artifact, request_of
from sheets import CELL, picture, subject_in, subject_of

from fourdgen.data.capture import write_png
from fourdgen.evaluate.truth import Truth, View, read_truth
from fourdgen.fit import metrics
from fourdgen.generate import footage_of
from fourdgen.generate.accept import judge
from fourdgen.generate.fill import Fill
from fourdgen.generate.guide import render_guide
from fourdgen.generate.paths import plan_paths
from fourdgen.playback.filmed import filmed_frames
from fourdgen.render import draw
from fourdgen.report import Silent
from fourdgen.scene import files
from fourdgen.scene.entries import camera_of
from fourdgen.scene.scene4d import Scene4D

WHITE = torch.ones(3)
KINDS = {"fill": "after fill", "damaged": "after damaged truth", "perfect": "after true views"}
VIEW = ("new view: the asset", "its confidence", "what fill makes", "four times the change", "weight in training")


def drawn(scene: Scene4D, truth: Truth, view: View) -> torch.Tensor:
    camera = camera_of(scene, view.entry, mapping_of(scene, truth))
    return draw(scene.at(view.clip, view.seconds), camera, WHITE, RASTERIZER).rgb[0].clamp(0, 1)


def psnr(rgb: torch.Tensor, view: View) -> float:
    return float(metrics.psnr(rgb.permute(2, 0, 1), view.rgb))


def labelled(cells: list[np.ndarray], words: list[str]) -> np.ndarray:
    """Pictures side by side, each with a line of text above it."""
    row = np.concatenate(cells, 1)
    row = np.pad(row, ((24, 0), (0, 0), (0, 0)), constant_values=255)
    for number, text in enumerate(words):
        place = (6 + number * CELL, 17)
        cv2.putText(row, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
    return row


def new_view(scene: Scene4D) -> np.ndarray:
    """The last frame of the first path: guide, confidence, what fill makes of it, and what training is to believe."""
    footage = footage_of(scene, filmed_frames(scene))
    path = plan_paths(scene, scene.reference, 1, 2, CELL)[0]
    # Three frames, as a guide is steadied over time.
    last = type(path)(path.name, path.clip, path.seconds[-3:], path.cameras[slice(-3, None)])
    guide = render_guide(footage, last, RASTERIZER)
    made = Fill().generate(guide, footage, Silent())
    change = 1 - 4 * (made.rgb - guide.rgb).abs().amax(-1)
    grey = [values[1][..., None].expand(-1, -1, 3) for values in (guide.confidence, change, judge(guide, made).weight)]
    place = subject_in(guide.alpha[1])
    return labelled([picture(v[place]) for v in (guide.rgb[1], grey[0], made.rgb[1], *grey[1:])], list(VIEW))


def trimmed(cell: np.ndarray) -> np.ndarray:
    """Without the white above and below a subject that is wider than high."""
    return cell[CELL // 6 : -CELL // 6]


@torch.no_grad()
def sheet(given: argparse.Namespace) -> np.ndarray:
    before = pipeline_artifact(request_of(given, given.scene, given.seed), "train")
    assets = {"before": before}
    for kind, name in KINDS.items():
        assets[name] = files.read(given.out / f"{given.scene}_{given.seed}_{kind}.ply")
    truth = read_truth(given.bench / given.scene, before)
    best = list(assets)[-1]
    gains = [psnr(drawn(assets[best], truth, v), v) - psnr(drawn(before, truth, v), v) for v in truth.views]
    order = np.argsort(gains)
    rows = [new_view(before)]
    for number in (order[-4], order[len(order) // 2]):
        view = truth.views[int(number)]
        true, place = view.rgb.permute(1, 2, 0), subject_of(view)
        cells, errors, words = (
            [picture(true[place])],
            [np.full((CELL, CELL, 3), 255, np.uint8)],
            ["held out: the truth"],
        )
        for name, scene in assets.items():
            found = drawn(scene, truth, view)
            cells.append(picture(found[place]))
            errors.append(picture(1 - 2 * (found - true).abs()[place].amax(-1, keepdim=True).expand(-1, -1, 3)))
            words.append(f"{name} {psnr(found, view):.1f} dB")
        rows += [labelled([trimmed(cell) for cell in cells], words), np.concatenate([trimmed(e) for e in errors], 1)]
    return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--out", type=Path, default=Path("build/regenerate"))
    parser.add_argument("--scene", default="fox")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, default=Path("regenerate.png"))
    given = parser.parse_args()
    if given.bench is None:
        sys.exit("where is the bench? --bench DIR, or set FOURDGEN_BENCH")
    given.bench, given.out = Path(given.bench).absolute(), given.out.absolute()
    given.unknown, given.further = False, []
    write_png(given.picture, sheet(given))


if __name__ == "__main__":
    main()
