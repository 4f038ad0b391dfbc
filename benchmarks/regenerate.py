"""What rounds of regeneration gain, and whether confidence and acceptance can be trusted.

    python benchmarks/regenerate.py --bench DIR [--scenes fox,knight,shiba] [--seeds 0] [--json FILE] [-- options]

Every scene is reconstructed with its true cameras (`--unknown`: without), then continued by one round with each of
these generators: `perfect` shows bench/<scene>/gen, the true pictures; `damaged` spoils them (colour shift, small
warps, flicker, a wrong limb in a fifth of the frames); `unfiltered` is the damaged one with everything accepted; `fill`
is the product's own, on its own paths. `more` is a round's training on the filmed frames alone, against which all
rounds have to be held; `gap` is training from the start with the true pictures at full weight: what could be gained.
Further words go to `reconstruct`, such as `--set train.steps=[1500,1150,600]`.

A scene's asset is trained once for each seed, in --out, and every kind starts from it. Each figure is kept as a small
file in --out/cells and not measured again, so an interrupted benchmark goes on where it was and kinds can be added;
after a change of the code, delete what it concerns.

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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from stand_ins import GEN, Perfect, damage
from torch import Tensor

from fourdgen import pipeline, planning, workspace
from fourdgen.data.capture import Capture, load_capture
from fourdgen.evaluate import confidence as trust
from fourdgen.evaluate.register import register
from fourdgen.evaluate.truth import Truth, matched, read_truth
from fourdgen.fit import confidence, metrics
from fourdgen.generate import Generated, footage_of
from fourdgen.generate.accept import bounds_of, judge
from fourdgen.geometry.fit import similarity_between
from fourdgen.geometry.transforms import Sim3
from fourdgen.render import draw, pick
from fourdgen.report import Silent
from fourdgen.scene import files
from fourdgen.scene.entries import camera_of
from fourdgen.scene.scene4d import Scene4D
from fourdgen.stages import regenerate, train
from fourdgen.workspace import Context

RASTERIZER = pick("auto", "cpu")


# --------------------------------------------------------------------------------------------------------------
# Runs and scores.


def request_of(given: argparse.Namespace, scene: str, seed: int, *settings: str) -> planning.Request:
    bench = given.bench / scene
    further = [word for word in given.further if word not in ("--", "--set")]
    return planning.Request(
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
    """All figures of a scene and seed: those that an earlier run has left, and the others."""
    os.environ[GEN] = str(given.bench / scene / "gen")
    request = request_of(given, scene, seed)
    result = pipeline.reconstruct(request, Silent())
    run = result.run_folder
    base = pipeline_artifact(request, "train")
    truth = read_truth(given.bench / scene, base)
    capture = load_capture(folder_of(run, "ingest"))

    def before() -> dict[str, object]:
        found = trust.judge(base, truth.views, mapping_of(base, truth), RASTERIZER)
        figures: dict[str, object] = {**score(base, truth), "filmed": filmed_psnr(base, capture)}
        figures["confidence"] = None if found is None else vars(found)
        if not given.unknown:  # gen/ has its cameras in the truth's world
            figures["acceptance"] = acceptance(base, capture, given.bench / scene / "gen", seed)
        return figures

    def after(kind: str) -> dict[str, object]:
        figures: dict[str, object] = {}
        if kind == "gap":
            scene_after = gap(base, run, given.bench / scene / "gen", request)
        elif kind == "more":
            scene_after = more(request)
        else:
            scene_after, figures = a_round(given, scene, seed, kind)
        files.write(given.out / f"{scene}_{seed}_{kind}.ply", scene_after)
        return {**figures, **score(scene_after, truth), "filmed": filmed_psnr(scene_after, capture)}

    row: dict[str, object] = {"scene": scene, "seed": seed, "known": not given.unknown}
    row["before"] = kept_cell(given, scene, seed, "before", before)
    for kind in given.kinds.split(","):
        if kind in ("more", "fill") or not given.unknown:
            row[kind] = kept_cell(given, scene, seed, kind, lambda kind=kind: after(kind))  # type: ignore[misc]
    return row


def kept_cell(
    given: argparse.Namespace, scene: str, seed: int, kind: str, measure: Callable[[], dict[str, object]]
) -> dict[str, object]:
    """The figures that are kept for this scene, seed and kind with these settings, else what `measure` finds."""
    path = given.out / "cells" / f"{scene}_{seed}_{kind}.json"
    settings = [word for word in given.further if word != "--"]
    if path.exists():
        kept: dict[str, object] = json.loads(path.read_text())
        if kept["settings"] == settings and kept["unknown"] == given.unknown:
            return kept
    began, spent = time.monotonic(), time.process_time()
    figures = measure()
    figures |= {"seconds": round(time.monotonic() - began, 1), "cpu": round(time.process_time() - spent, 1)}
    figures |= {"settings": settings, "unknown": given.unknown}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=1))
    print(scene, seed, kind, json.dumps(figures), flush=True)
    return figures


def a_round(given: argparse.Namespace, scene: str, seed: int, kind: str) -> tuple[Scene4D, dict[str, object]]:
    """One round of the product itself, with the generator of a kind: the asset after it, and what it said."""
    gen = [f"regenerate.cameras={given.bench / scene / 'gen' / 'transforms.json'}", "regenerate.size=0"]
    settings = {
        "perfect": ["regenerate.generator=stand_ins:Perfect", *gen],
        "damaged": ["regenerate.generator=stand_ins:Damaged", *gen],
        "unfiltered": ["regenerate.generator=stand_ins:Damaged", "regenerate.filtering=false", *gen],
        "fill": ["regenerate.generator=fill"],
    }[kind]
    after = pipeline.reconstruct(request_of(given, scene, seed, "regenerate.rounds=1", *settings), Silent())
    said, views = notes_of(after.run_folder, "draws"), notes_of(after.run_folder, "low_pixels")
    figures = {key: said.get(key) for key in ("kept", "draws", "before", "after")}
    low, filmed = float(views["low_pixels"]), float(views["low_pixels_filmed"])  # type: ignore[arg-type]
    figures |= {"views_kept": views["kept"], "low_filled": filmed / max(low, 1.0)}
    return files.read(folder_of(after.run_folder, "train-1") / "scene.ply"), figures


def pipeline_artifact(request: planning.Request, name: str) -> Any:
    """What a finished stage of the asset left."""
    row = next(row for row in planning.plan(request).rows if row.stage.name == name)
    return row.stage.load(row.folder)


def summary(rows: list[dict[str, Any]]) -> str:
    """For each seed: the gain of each kind in held-out PSNR, mean and scene by scene, with its share of the gap; what a
    round costs the filmed frames; what `fill` is made of; how well confidence tells wrong pixels."""
    lines = []
    for seed in sorted({row["seed"] for row in rows}):
        mine = [row for row in rows if row["seed"] == seed]
        gains = {
            kind: [row[kind]["psnr"] - row["before"]["psnr"] for row in mine]
            for kind in ("more", "gap", "perfect", "damaged", "unfiltered", "fill")
            if all(kind in row for row in mine)
        }
        whole = sum(gains.get("gap", [0.0]))
        for kind, found in gains.items():
            share = f", {sum(found) / whole:.0%} of the gap" if whole > 0 and kind != "gap" else ""
            lines.append(f"seed {seed} {kind}: {sum(found) / len(found):+.2f} dB ({each(mine, found, '+.2f')}){share}")
            costs = [row[kind].get("filmed", math.nan) - row["before"].get("filmed", math.nan) for row in mine]
            lines.append(f"  filmed frames {each(mine, costs, '+.2f')} dB")
            if kind == "fill":
                for said, key in (
                    ("low-confidence pixels from filmed frames", "low_filled"),
                    ("of the draws", "draws"),
                ):
                    lines.append(f"  {said}: {each(mine, [row[kind].get(key, math.nan) for row in mine], '.0%')}")
        areas = [(row["before"].get("confidence") or {}).get("auc", math.nan) for row in mine]
        lines.append(f"seed {seed} AUC of confidence before a round: {each(mine, areas, '.3f')}")
    return "\n".join(lines)


def each(rows: list[dict[str, Any]], values: list[float], form: str) -> str:
    return ", ".join(f"{row['scene']} {value:{form}}" for row, value in zip(rows, values, strict=True))


def gap(base: Scene4D, run: Path, gen: Path, request: planning.Request) -> Scene4D:
    """Training from the start with the true pictures as if they had been filmed: full weight, nothing judged."""
    planned = planning.plan(request)
    rows = {row.stage.name: row for row in planned.rows}
    capture, alignment, track, frames = (
        rows[name].stage.load(rows[name].folder) for name in ("ingest", "align", "root_pose", "sample")
    )
    folder = request.output.with_suffix(".gap")
    folder.mkdir(exist_ok=True)
    settings = regenerate.RegenerateConfig(cameras=str(gen / "transforms.json"), size=0)
    clips = []
    for path in regenerate.plan(base, settings):
        guide = regenerate.render_guide(footage_of(base, capture), path, RASTERIZER)
        made = Perfect().generate(guide, footage_of(base, capture), Silent())
        verdict = judge(guide, made, filtering=False)
        clips.append(
            regenerate.write_view(folder, guide, made, replace(verdict, weight=torch.ones_like(verdict.weight)))
        )
    context = Context(folder, planned.job, "cpu", 1, request.seed, Silent())
    views = Capture(tuple(clips), folder)
    anew = replace(rows["train"].config, take_up=0.0)
    return train.trained_on(context, anew, capture, alignment, track, frames, base, views)[0]


def more(request: planning.Request) -> Scene4D:
    """What a round trains, on the filmed frames alone."""
    planned = planning.plan(request)
    rows = {row.stage.name: row for row in planned.rows}
    needed = [rows[name].stage.load(rows[name].folder) for name in ("ingest", "align", "root_pose", "sample", "train")]
    folder = request.output.with_suffix(".more")
    folder.mkdir(exist_ok=True)
    context = Context(folder, planned.job, "cpu", 1, request.seed, Silent())
    return train.trained_on(context, rows["train"].config, *needed, Capture((), folder))[0]


def acceptance(scene: Scene4D, capture: Capture, gen: Path, seed: int) -> dict[str, float]:
    """Shares of frames: perfect ones refused; ones with a wrong limb refused or with a mean weight below 0.1 on it."""
    footage = footage_of(scene, capture)
    bounds = bounds_of(footage, RASTERIZER)
    settings = regenerate.RegenerateConfig(cameras=str(gen / "transforms.json"), size=0)
    refused, frames, caught, wrong, spoilt, others = 0, 0, 0, 0, 0, 0
    for path in regenerate.plan(scene, settings):
        guide = regenerate.render_guide(footage, path, RASTERIZER, seed)
        made = Perfect().generate(guide, footage, Silent())
        verdict = judge(guide, made, bounds=bounds)
        refused += int((~verdict.kept).sum())
        frames += len(guide)
        rgb, alpha, limbs = damage(made.rgb, made.alpha, seed)
        verdict = judge(guide, Generated(rgb, alpha), bounds=bounds)
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
    """Prints the numbers fitted to all scenes and seeds, and for each scene the AUC with those of the other scenes."""
    evidence: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name in given.scenes.split(","):
        evidence[name] = [faults_of(given, name, seed) for seed in given.seeds.split(",")]
    for name, pairs in evidence.items():
        others = [pair for other, theirs in evidence.items() if other != name for pair in theirs]
        if others:
            weights = fitted(others)
            areas = [trust.auc(rows @ weights[:-1] + weights[-1], faults) or 0.0 for rows, faults in pairs]
            each = ", ".join(f"{area:.3f}" for area in areas)
            print(f"{name}: AUC inside the silhouette {each} with the numbers of the other scenes")
    weights = fitted([pair for pairs in evidence.values() for pair in pairs])
    print("INSIDE =", tuple(round(float(w), 2) for w in weights[:-1]), "INSIDE_BIAS =", round(float(weights[-1]), 2))


def faults_of(given: argparse.Namespace, name: str, seed: str) -> tuple[Tensor, Tensor]:
    """Features and faults of every seventh pixel inside the silhouette, over the held-out views of an asset."""
    scene = pipeline_artifact(request_of(given, name, int(seed)), "train")  # the .ply beside it may be a round's
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
    return torch.cat(rows).double(), torch.cat(faults)


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
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))
    print(summary(rows))


if __name__ == "__main__":
    main()
