"""What rounds of regeneration gain, and whether confidence and acceptance can be trusted.

    python benchmarks/regenerate.py --bench DIR [--scenes fox,knight,shiba] [--seeds 0] [--json FILE] [-- options]

Every scene is reconstructed with its true cameras (`--unknown`: without), then continued by one round with each of
these generators: `perfect` shows bench/<scene>/gen, the true pictures; `damaged` spoils them (colour shift, small
warps, flicker, a wrong limb in a fifth of the frames); `unfiltered` is the damaged one with everything accepted; `fill`
is the product's own, on its own paths. `more` is a round's training on the filmed frames alone, against which all
rounds have to be held; `gap` is training from the start with the true pictures at full weight: what could be gained.
Further words go to `reconstruct`, such as `--set train.steps=[1500,1150,600]`.

`--calibrate` fits the numbers of fourdgen/fit/confidence.py to the scenes that are there and prints them, with the AUC
of each scene when it was left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from fourdgen import pipeline, workspace
from fourdgen.data.cameras_io import read_camera_entries
from fourdgen.data.capture import Capture, load_capture
from fourdgen.evaluate import confidence as trust
from fourdgen.evaluate.register import register
from fourdgen.evaluate.truth import Truth, matched, read_truth
from fourdgen.fit import confidence, loop, metrics, rounds
from fourdgen.generate import Footage, Generated, Guide
from fourdgen.generate.accept import judge
from fourdgen.geometry.fit import similarity_between
from fourdgen.geometry.transforms import Sim3
from fourdgen.render import draw, pick
from fourdgen.report import Reporter, Silent
from fourdgen.scene import files
from fourdgen.scene.bones import ClipTime
from fourdgen.scene.entries import camera_of
from fourdgen.scene.scene4d import Scene4D
from fourdgen.stages import regenerate, train
from fourdgen.workspace import Context

GEN = "FOURDGEN_BENCH_GEN"  # the folder of true pictures that the generators below show
LIMB_SHARE = 0.2
RASTERIZER = pick("auto", "cpu")


# --------------------------------------------------------------------------------------------------------------
# Generators that stand in for a video model.


class Perfect:
    """The true pictures of a path of bench/<scene>/gen."""

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        folder = Path(os.environ[GEN])
        entries = [e for e in read_camera_entries(folder / "transforms.json") if f"{e.clip}-{e.view}" == guide.name]
        pictures = [true_picture(folder / entry.file_path) for entry in sorted(entries, key=lambda e: e.frame or 0)]
        return Generated(torch.stack([rgb for rgb, _ in pictures]), torch.stack([alpha for _, alpha in pictures]))


class Damaged(Perfect):
    """The same, spoilt. `limbs` [t h w] says afterwards where a limb was added that is not there."""

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        made = super().generate(guide, footage, report)
        rgb, alpha, _ = damage(made.rgb, made.alpha, guide.seed)
        return Generated(rgb, alpha)


def true_picture(path: Path) -> tuple[Tensor, Tensor]:
    """Colour on white [h w 3] and alpha [h w] of an RGBA file."""
    image = torch.from_numpy(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32) / 255)
    alpha = image[..., 3]
    return image[..., [2, 1, 0]] * alpha[..., None] + 1 - alpha[..., None], alpha


def damage(rgb: Tensor, alpha: Tensor | None, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Colour gains of up to 8 %, brightness flicker of 3 %, warps of about 1.5 pixels of 256, and in a fifth of the
    frames a limb: a bar as long as a third of the subject, in one of its colours, that sticks out of it somewhere."""
    assert alpha is not None
    random = np.random.default_rng(seed)
    count, height, width = alpha.shape
    gain = torch.from_numpy(1 + random.uniform(-0.08, 0.08, 3)).float()
    colors, alphas, limbs = [], [], torch.zeros(count, height, width, dtype=torch.bool)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    wrong = random.permutation(count)[: round(LIMB_SHARE * count)]
    for t in range(count):
        rough = random.normal(0, 1, (2, height, width)).astype(np.float32)
        smooth = [cv2.GaussianBlur(part, (0, 0), width / 10) for part in rough]
        dx, dy = (1.5 * width / 256 * part / max(part.std(), 1e-9) for part in smooth)
        stacked = torch.cat([rgb[t], alpha[t][..., None]], -1).numpy()
        warped = cv2.remap(stacked, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        picture, mask = torch.from_numpy(warped[..., :3]), torch.from_numpy(warped[..., 3])
        straight = (picture - (1 - mask[..., None])) / mask.clamp_min(1e-3)[..., None]
        straight = straight * gain * (1 + 0.03 * float(random.normal()))
        picture = (straight * mask[..., None] + 1 - mask[..., None]).clamp(0, 1)
        if t in wrong and bool((mask > 0.5).any()):
            limb = torch.from_numpy(_limb(mask.numpy() > 0.5, random))
            rows, columns = (mask > 0.9).nonzero(as_tuple=True)
            where = int(random.integers(len(rows)))
            picture = torch.where(limb[..., None], straight[rows[where], columns[where]].clamp(0, 1), picture)
            limbs[t] = limb & (mask < 0.5)
            mask = torch.where(limb, torch.ones_like(mask), mask)
        colors.append(picture)
        alphas.append(mask)
    return torch.stack(colors), torch.stack(alphas), limbs


def _limb(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    size = max(np.ptp(rows), np.ptp(columns)) + 1
    middle = np.array([columns.mean(), rows.mean()])
    edge = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    points = max(edge, key=len)[:, 0]
    start = points[random.integers(len(points))].astype(float)
    away = start - middle
    away /= max(np.linalg.norm(away), 1e-6)
    end = start + size / 3 * away
    bar = np.zeros(mask.shape, np.uint8)
    first, last = (tuple(int(v) for v in place) for place in (start - 0.05 * size * away, end))
    cv2.line(bar, first, last, 1, max(3, round(0.08 * size)))
    return bar > 0


# --------------------------------------------------------------------------------------------------------------
# Runs and scores.


def request_of(given: argparse.Namespace, scene: str, seed: int, *settings: str) -> pipeline.Request:
    bench = given.bench / scene
    further = [word for word in given.further if word not in ("--", "--set")]
    return pipeline.Request(
        inputs=(bench / "rgba" / "a", bench / "rgba" / "b"), output=given.out / f"{scene}_{seed}.ply",
        cameras=None if given.unknown else bench / "transforms.json", pipeline="fast", seed=seed, threads=1,
        settings=(*further, *settings),
    )  # fmt: skip


def score(scene: Scene4D, truth: Truth) -> dict[str, float]:
    mapping = mapping_of(scene, truth)
    found = []
    for view in truth.views:
        camera = camera_of(scene, view.entry, mapping)
        with torch.no_grad():
            out = draw(scene.at(view.clip, view.seconds), camera, torch.ones(3), RASTERIZER)
        found.append(float(metrics.psnr(out.rgb[0].permute(2, 0, 1).clamp(0, 1), view.rgb)))
    return {"psnr": sum(found) / len(found)}


def mapping_of(scene: Scene4D, truth: Truth) -> Sim3:
    if scene.world_from_input is not None:
        return scene.world_from_input
    found = matched(scene, truth.inputs)
    ours = torch.stack([scene.clips[clip].cameras.cam_from_world[i].double() for _, clip, i in found])
    true = torch.stack([entry.cam_from_input.double() for entry, _, _ in found])
    return register(scene, truth.views, similarity_between(ours, true), RASTERIZER)


def filmed_psnr(scene: Scene4D, capture: Capture) -> float:
    """On every fourth filmed frame, whole pictures on white."""
    errors = []
    for name, clip in scene.clips.items():
        for t in range(0, len(clip.seconds), 4):
            frame = capture.frame(name, t)
            with torch.no_grad():
                out = draw(scene.at(name, float(clip.seconds[t])), clip.cameras[t], torch.ones(3), RASTERIZER)
            target = frame.rgb * frame.mask[..., None] + 1 - frame.mask[..., None]
            errors.append(float(metrics.psnr(out.rgb[0].permute(2, 0, 1).clamp(0, 1), target.permute(2, 0, 1))))
    return sum(errors) / len(errors)


def folder_of(run: Path, stage: str) -> Path:
    return next(path for path in workspace.stage_folders(run) if path.name.endswith(f"-{stage}"))


def notes_of(run: Path, key: str) -> dict[str, object]:
    """The last note of the run's log that has a field."""
    rows = [json.loads(line) for line in (run / workspace.LOG).read_text().splitlines()]
    found = [row for row in rows if row.get("event") == "note" and key in row]
    return found[-1] if found else {}


def bench_scene(given: argparse.Namespace, scene: str, seed: int) -> dict[str, object]:
    os.environ[GEN] = str(given.bench / scene / "gen")
    request = request_of(given, scene, seed)
    result = pipeline.reconstruct(request, Silent())
    run = result.run_folder
    base = files.read(result.scene)
    truth = read_truth(given.bench / scene, base)
    capture = load_capture(folder_of(run, "ingest"))
    row: dict[str, object] = {"scene": scene, "seed": seed, "known": not given.unknown}
    found = trust.judge(base, truth.views, mapping_of(base, truth), RASTERIZER)
    row["confidence"] = None if found is None else vars(found)
    row["before"] = {**score(base, truth), "filmed": filmed_psnr(base, capture)}
    if not given.unknown:  # gen/ has its cameras in the truth's world
        row["acceptance"] = acceptance(base, capture, given.bench / scene / "gen", seed)
    gen = [f"regenerate.cameras={given.bench / scene / 'gen' / 'transforms.json'}", "regenerate.size=0"]
    kinds = {
        "perfect": ["regenerate.generator=__main__:Perfect", *gen],
        "damaged": ["regenerate.generator=__main__:Damaged", *gen],
        "unfiltered": ["regenerate.generator=__main__:Damaged", "regenerate.filtering=false", *gen],
        "fill": ["regenerate.generator=fill"],
    }
    for kind in given.kinds.split(","):
        if kind != "fill" and given.unknown:
            continue
        began, spent = time.monotonic(), time.process_time()
        figures: dict[str, object] = {}
        if kind == "gap":
            scene_after = gap(base, run, given.bench / scene / "gen", request)
        elif kind == "more":
            scene_after = more(request)
        else:
            settings = ["regenerate.rounds=1", *kinds[kind]]
            after = pipeline.reconstruct(request_of(given, scene, seed, *settings), Silent())
            scene_after = files.read(folder_of(run, "train-1") / "scene.ply")
            said, views = notes_of(run, "draws"), notes_of(run, "low_pixels")
            figures = {key: said.get(key) for key in ("kept", "draws", "before", "after")}
            low, filmed = float(views["low_pixels"]), float(views["low_pixels_filmed"])  # type: ignore[arg-type]
            figures |= {"views_kept": views["kept"], "low_filled": filmed / max(low, 1.0)}
            assert after.run_folder == run
        figures |= {**score(scene_after, truth), "filmed": filmed_psnr(scene_after, capture)}
        figures |= {"seconds": round(time.monotonic() - began, 1), "cpu": round(time.process_time() - spent, 1)}
        row[kind] = figures
        files.write(given.out / f"{scene}_{seed}_{kind}.ply", scene_after)
        print(scene, seed, kind, figures, flush=True)
    return row


def gap(base: Scene4D, run: Path, gen: Path, request: pipeline.Request) -> Scene4D:
    """Training from the start with the true pictures as if they had been filmed: full weight, nothing judged."""
    planned = pipeline.plan(request)
    rows = {row.stage.name: row for row in planned.rows}
    capture, alignment, track, frames = (
        rows[name].stage.load(rows[name].folder) for name in ("ingest", "align", "root_pose", "sample")
    )
    folder = request.output.with_suffix(".gap")
    folder.mkdir(exist_ok=True)
    settings = regenerate.RegenerateConfig(cameras=str(gen / "transforms.json"), size=0)
    clips = []
    for path in regenerate.plan(base, settings):
        guide = regenerate.render_guide(Footage(base, capture), path, RASTERIZER)
        made = Perfect().generate(guide, Footage(base, capture), Silent())
        verdict = judge(guide, made, filtering=False)
        clips.append(
            regenerate.write_view(folder, guide, made, replace(verdict, weight=torch.ones_like(verdict.weight)))
        )
    context = Context(folder, planned.job, "cpu", 1, request.seed, Silent())
    guard, train.WORSE = train.WORSE, math.inf
    try:
        return train.run_round(
            context,
            replace(rows["train"].config, take_up=0.0),
            capture,
            alignment,
            track,
            frames,
            base,
            Capture(tuple(clips), folder),
        )
    finally:
        train.WORSE = guard


def more(request: pipeline.Request) -> Scene4D:
    """What a round trains, on the filmed frames alone."""
    rows = {row.stage.name: row for row in pipeline.plan(request).rows}
    capture, alignment, track, frames, before = (
        rows[name].stage.load(rows[name].folder) for name in ("ingest", "align", "root_pose", "sample", "train")
    )
    config = rows["train"].config
    times = {name: ClipTime(capture.clip(name).seconds.float(), name) for name in track.clips}
    model = loop.train(
        capture, rounds.with_views(track.clips, before, Capture((), capture.folder)), frames, times, config,
        refine_poses=not track.given, rasterizer=RASTERIZER, seed=request.seed,
        checkpoint=request.output.with_suffix(".more"), publish=lambda model: None,
        initial=torch.load(before.state, weights_only=True), begin=config.take_up,
    )  # fmt: skip
    request.output.with_suffix(".more").unlink(missing_ok=True)
    return train.written_scene(model, capture, alignment, track, "")


def acceptance(scene: Scene4D, capture: Capture, gen: Path, seed: int) -> dict[str, float]:
    """Shares of frames: perfect ones refused; ones with a wrong limb refused or with a mean weight below 0.1 on it."""
    footage = Footage(scene, capture)
    settings = regenerate.RegenerateConfig(cameras=str(gen / "transforms.json"), size=0)
    refused, frames, caught, wrong, spoilt, others = 0, 0, 0, 0, 0, 0
    for path in regenerate.plan(scene, settings):
        guide = regenerate.render_guide(footage, path, RASTERIZER, seed)
        made = Perfect().generate(guide, footage, Silent())
        verdict = judge(guide, made)
        refused += int((~verdict.kept).sum())
        frames += len(guide)
        rgb, alpha, limbs = damage(made.rgb, made.alpha, seed)
        verdict = judge(guide, Generated(rgb, alpha))
        for t in range(len(guide)):
            if bool(limbs[t].any()):
                wrong += 1
                caught += not bool(verdict.kept[t]) or float(verdict.weight[t][limbs[t]].mean()) < 0.1
            else:
                others += 1
                spoilt += not bool(verdict.kept[t])
    return {"perfect_refused": refused / frames, "limbs_caught": caught / max(wrong, 1),
            "damaged_without_limb_refused": spoilt / max(others, 1)}  # fmt: skip


# --------------------------------------------------------------------------------------------------------------
# The numbers of pixel confidence.


def calibrate(given: argparse.Namespace) -> None:
    evidence: dict[str, tuple[Tensor, Tensor]] = {}
    for name in given.scenes.split(","):
        scene = files.read(given.out / f"{name}_{given.seeds.split(',')[0]}.ply")
        truth = read_truth(given.bench / name, scene)
        mapping = mapping_of(scene, truth)
        rows, faults = [], []
        for view in truth.views:
            camera, state = camera_of(scene, view.entry, mapping), scene.at(view.clip, view.seconds)
            features, _ = confidence.features(state, camera, RASTERIZER)
            with torch.no_grad():
                out = draw(state, camera, torch.ones(3), RASTERIZER)
            inside = out.alpha[0] > 0.5
            off = (out.rgb[0].permute(2, 0, 1).clamp(0, 1) - view.rgb).abs().amax(0) > trust.WRONG
            rows.append(features[inside][::7])
            faults.append((off | (view.alpha <= 0.5))[inside][::7])
        evidence[name] = (torch.cat(rows).double(), torch.cat(faults))
    for name in evidence:
        others = [pair for other, pair in evidence.items() if other != name]
        if others:
            weights = fitted(others)
            area = trust.auc(evidence[name][0] @ weights[:-1] + weights[-1], evidence[name][1])
            print(f"{name}: AUC inside the silhouette {area:.3f} with the numbers of the others")
    weights = fitted(list(evidence.values()))
    print("INSIDE =", tuple(round(float(w), 2) for w in weights[:-1]), "INSIDE_BIAS =", round(float(weights[-1]), 2))


def fitted(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Logistic regression with a small ridge, each scene counting alike."""
    weights = torch.zeros(pairs[0][0].shape[1] + 1, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        total = 5e-4 * (weights**2).sum()
        for rows, faults in pairs:
            odds = rows @ weights[:-1] + weights[-1]
            total = total + torch.nn.functional.binary_cross_entropy_with_logits(odds, faults.double()) / len(pairs)
        total.backward()
        return total

    solver.step(loss)
    return weights.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("FOURDGEN_BENCH"))
    parser.add_argument("--scenes", default="fox,knight,shiba")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--kinds", default="more,gap,perfect,damaged,unfiltered,fill")
    parser.add_argument("--unknown", action="store_true")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/regenerate"))
    parser.add_argument("--json", type=Path)
    given, given.further = parser.parse_known_args()
    if given.bench is None:
        sys.exit("where is the bench? --bench DIR, or set FOURDGEN_BENCH")
    given.bench, given.out = Path(given.bench).absolute(), given.out.absolute()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.calibrate:
        calibrate(given)
        return
    rows = []
    for scene in given.scenes.split(","):
        for seed in given.seeds.split(","):
            rows.append(bench_scene(given, scene, int(seed)))
            print(json.dumps(rows[-1]), flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
