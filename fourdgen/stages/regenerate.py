"""Stage regenerate: new views of the asset, made by a generator, judged, and handed to a further round of training.

A recipe that names `regenerate` gets two rows for each round: regenerate-N (this file) and train-N (`ROUND` in
stages/train).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from fourdgen import weights
from fourdgen.data.cameras_io import read_camera_entries
from fourdgen.data.capture import Capture, Clip, load_capture, save_capture, to_bytes, write_picture, write_png
from fourdgen.data.sources import clip_names
from fourdgen.fit.metrics import mask_box
from fourdgen.generate import Footage, Generated, Generator, Guide, code_of, footage_of, make_generator, paths
from fourdgen.generate.accept import Verdict, bounds_of, judge
from fourdgen.generate.guide import check_entries, given_paths, render_guide
from fourdgen.generate.model_files import files_of
from fourdgen.generate.paths import Path as CameraPath
from fourdgen.generate.video import Video
from fourdgen.render.carried import rasterizer_on
from fourdgen.report import FourdgenError, all_at_once
from fourdgen.scene.scene4d import Scene4D
from fourdgen.workspace import Context, Job, Stage

COLUMNS = 6  # frames of a view in check.png
ROWS = ("guide", "confidence", "made", "weight")  # of a view in check.png
LEAST_SIDE = 16  # of made frames, pixels
SLACK = 0.01  # by which made values may lie outside 0..1: filters overshoot
MARGIN = 84  # pixels to the left of them, for their names
BY_MODEL = ("model", "prompt", "avoid", "guidance", "side", "window", "overlap", "fetch")


@dataclass(frozen=True)
class RegenerateConfig:
    """Settings of stage regenerate. Those from `model` on are for the generator `video`."""

    rounds: int = 0  # how often new views are made and trained on; 0 is off
    generator: str = "fill"  # fill (no weights), video (a diffusion model), or "module:Class" of another package
    options: dict[str, Any] = field(default_factory=dict)  # what it is made with, beside the settings below: a table
    views: int = 3  # camera paths in a round, into the least covered directions
    clip: str = ""  # whose motion they show; empty: the reference clip's
    every: int = 2  # every n-th frame of the clip is made
    size: int = 256  # longer side of the made frames at most, pixels; 0: as the clip
    cameras: str = ""  # a cameras file that gives the paths instead: entries with view and frame
    filtering: bool = True  # judge what was made; without, everything counts as half a filmed pixel
    model: str = ""  # folder or hub name of a video model, such as Wan-AI/Wan2.1-VACE-1.3B-diffusers
    prompt: str = Video.prompt  # what the video model is told
    avoid: str = Video.avoid  # and what it shall not make
    sampling_steps: int = Video.steps  # denoising steps of the video model
    guidance: float = Video.guidance  # how strictly the video model follows the prompt
    side: int = Video.side  # longer side of what the video model makes, pixels
    window: int = Video.window  # frames that the video model makes at once
    overlap: int = Video.overlap  # frames by which its windows overlap
    fetch: bool = False  # allow downloading the model


def check(job: Job, config: RegenerateConfig) -> None:
    """All that can be known without the asset. Raises one FourdgenError with everything that is wrong."""
    errors = [
        FourdgenError(f"regenerate.{name}: {getattr(config, name)} is too few", f"use {least} or more")
        for name, least in (("rounds", 0), ("views", 1), ("every", 1))
        if getattr(config, name) < least
    ]
    if config.size != 0 and config.size < LEAST_SIDE:
        errors.append(FourdgenError(f"regenerate.size: {config.size} pixels show nothing",
                                    f"use {LEAST_SIDE} or more, or 0 for the size of the clip"))  # fmt: skip
    if config.cameras and config.clip:
        errors.append(FourdgenError("regenerate.clip beside regenerate.cameras: the entries of that file name the clip",
                                    "leave one of them out"))  # fmt: skip
    names = clip_names(job.inputs)
    if config.rounds > 0 and names and config.clip and config.clip not in names:
        errors.append(_no_clip(config.clip, names))
    if config.rounds > 0:
        for look in (lambda: generator_of(config, "cpu"), lambda: _check_cameras(config, names)):
            try:
                look()
            except FourdgenError as error:
                errors.append(error)
    if errors:
        raise all_at_once(errors)


def _check_cameras(config: RegenerateConfig, names: Sequence[str]) -> None:
    if config.cameras:
        check_entries(read_camera_entries(Path(config.cameras)), names)


def _no_clip(name: str, clips: Iterable[str]) -> FourdgenError:
    return FourdgenError(f"regenerate.clip: the scene has no clip {name!r}", f"its clips: {', '.join(clips)}")


def generator_of(config: RegenerateConfig, device: str) -> Generator:
    """The generator that the settings name. Raises FourdgenError."""
    if config.generator == "fill":
        return make_generator("fill", {"device": device, **config.options})
    if config.generator == "video":
        settings = {name: getattr(config, name) for name in BY_MODEL}
        return make_generator("video", {**settings, "steps": config.sampling_steps, "device": device, **config.options})
    return make_generator(config.generator, config.options)


def plan(scene: Scene4D, config: RegenerateConfig) -> list[CameraPath]:
    """The camera paths of a round: those of the cameras file, else into the least covered directions."""
    if config.cameras:
        return given_paths(scene, read_camera_entries(Path(config.cameras)), config.size)
    clip = config.clip or scene.reference
    if clip not in scene.clips:
        raise _no_clip(clip, scene.clips)
    return paths.plan_paths(scene, clip, config.views, config.every, config.size)


def run(ctx: Context, config: RegenerateConfig, capture: Capture, scene: Scene4D) -> Capture:
    """The kept views as imagined clips with weights and cameras (root frame). A view that a killed run has finished is
    not made again."""
    planned = plan(scene, config)
    clips, rows, filled = [], [], []
    for guide, made, verdict in views(ctx, config, footage_of(scene, capture), planned):
        filled.append(_filled_share(guide, made, verdict))
        rows.append(check_row(guide, made, verdict))
        if bool(verdict.kept.any()):
            clips.append(write_view(ctx.folder, guide, made, verdict))
    coverage = paths.picture(scene, planned, 240)
    write_png(ctx.folder / "check.png", stacked([coverage, *rows]))
    low = sum(part for part, _ in filled)
    ctx.report.emit(
        "note", text=f"{len(clips)} of {len(planned)} new views kept", kept=len(clips), views=len(planned),
        low_pixels=low, low_pixels_filmed=sum(part for _, part in filled),
    )  # fmt: skip
    return Capture(tuple(clips), ctx.folder)


def views(
    ctx: Context, config: RegenerateConfig, footage: Footage, planned: Sequence[CameraPath]
) -> Iterator[tuple[Guide, Generated, Verdict]]:
    """Each path's guide, what the generator makes of it, and the judgement, which the log is told."""
    rasterizer = rasterizer_on(ctx.device)
    generator = generator_of(config, ctx.device)
    bounds = bounds_of(footage, rasterizer)
    for number, path in enumerate(planned):
        guide = render_guide(footage, path, rasterizer, ctx.seed + 1000 * number)
        made = made_once(ctx, guide, footage, generator)
        verdict = judge(guide, made, config.filtering, bounds)
        say(ctx, guide, verdict)
        yield guide, made, verdict


def made_once(ctx: Context, guide: Guide, footage: Footage, generator: Generator) -> Generated:
    """What the generator makes of a guide, kept in the working folder so that a killed run need not make it again."""
    kept = ctx.folder / "made" / f"{guide.name}.pt"
    if not kept.is_file():
        made = _made_by(generator, guide, footage, ctx)
        kept.parent.mkdir(exist_ok=True)
        partial = kept.with_suffix(".partial")
        torch.save({k: v for k in ("rgb", "alpha", "filmed") if (v := getattr(made, k)) is not None}, partial)
        partial.replace(kept)
    return Generated(**torch.load(kept, weights_only=True))


def _made_by(generator: Generator, guide: Guide, footage: Footage, ctx: Context) -> Generated:
    """What a generator makes, checked. One of another package may fail in ways of its own (a service that does not
    answer): that is not a mistake in fourdgen."""
    mine = replace(guide, **{name: getattr(guide, name).clone() for name in ("rgb", "alpha", "confidence")})
    try:
        with torch.no_grad():
            made = generator.generate(mine, footage, ctx.report)  # whatever it does to its copy, the judge has another
    except FourdgenError:
        raise
    except Exception as error:
        kind = type(generator)
        if kind.__module__.startswith("fourdgen."):
            raise
        raise FourdgenError(
            f"the generator {kind.__name__} failed on {guide.name}: {type(error).__name__}: {error}",
            "run the same command again when it works: finished views stay while its code is the same",
        ) from error
    check_made(guide, made)
    return made


def check_made(guide: Guide, made: object) -> None:
    """Raises FourdgenError where a generator's result is not a `Generated` of its guide's shape with values 0..1.
    Single frames of rgb or alpha may be no pictures (not numbers): they will be refused."""
    hint = "a generator returns Generated(rgb, alpha, filmed), floats 0..1 of as many frames, rows and columns"
    if not isinstance(made, Generated):
        raise FourdgenError(f"the generator returned {type(made).__name__} for {guide.name}", hint)
    wanted = {"rgb": guide.rgb.shape, "alpha": guide.alpha.shape, "filmed": guide.alpha.shape}
    for name, shape in wanted.items():
        value = getattr(made, name)
        if value is None and name != "rgb":
            continue
        if not isinstance(value, torch.Tensor) or value.shape != shape or not value.is_floating_point():
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise FourdgenError(
                f"the generator made {name} {got} of a guide of {tuple(guide.rgb.shape)}, {guide.name}", hint
            )
        if bool(((value < -SLACK) | (value > 1 + SLACK)).any()) or (name == "filmed" and bool(value.isnan().any())):
            low, high = float(value.nan_to_num().min()), float(value.nan_to_num().max())
            said = "what is not a number" if low >= 0 and high <= 1 else f"values from {low:.3g} to {high:.3g}"
            raise FourdgenError(f"the generator made {name} with {said}, {guide.name}", hint)


def say(ctx: Context, guide: Guide, verdict: Verdict) -> None:
    """Tells the log whether a view is kept, and why not."""
    ctx.report.emit(
        "note", text=f"{guide.name}: {_kept(guide, verdict)}", view=guide.name, kept=verdict.kept.int().tolist(),
        reasons=[reason for reason in verdict.reasons if reason], iou=[round(v, 3) for v in verdict.iou.tolist()],
    )  # fmt: skip


def _kept(guide: Guide, verdict: Verdict) -> str:
    return f"refused: {verdict.reason}" if verdict.reason else f"{int(verdict.kept.sum())} of {len(guide)} frames kept"


def _filled_share(guide: Guide, made: Generated, verdict: Verdict) -> tuple[int, int]:
    """Pixels of the subject with a confidence below 0.5; those of them that come from filmed pixels and count."""
    low = (verdict.alpha > 0.5) & (guide.confidence < 0.5)
    if made.filmed is None:
        return int(low.sum()), 0
    return int(low.sum()), int((low & (made.filmed > 0) & (verdict.weight > 0.1)).sum())


def write_view(folder: Path, guide: Guide, made: Generated, verdict: Verdict) -> Clip:
    """Stores a view as a clip of a capture: frames, silhouettes, weights. Its cameras are in the root frame."""
    for t in range(len(guide)):
        alpha = verdict.alpha[t].clamp(0, 1)
        straight = (made.rgb[t] - (1 - alpha[..., None])) / alpha.clamp_min(1e-3)[..., None]
        write_picture(folder, guide.name, "rgb", t, to_bytes(torch.nan_to_num(straight)))
        write_picture(folder, guide.name, "mask", t, to_bytes(alpha))
        write_picture(folder, guide.name, "weight", t, to_bytes(verdict.weight[t]))
    cameras = guide.cameras
    return Clip(
        name=guide.name, source=guide.clip, size=cameras.size, seconds=guide.seconds,
        frame_ids=torch.arange(len(guide)), origin="imagined", cameras=cameras, masks_from="generated", weighted=True,
    )  # fmt: skip


def check_row(guide: Guide, made: Generated, verdict: Verdict) -> UInt8[np.ndarray, "h w 3"]:
    """Guide, confidence, result and weight of some frames, cut to the subject; refused frames have a red edge. What a
    row shows stands to its left, and above all of them which view it is and how many of its frames are kept."""
    columns, shown = [], torch.linspace(0, len(guide) - 1, min(COLUMNS, len(guide))).long().tolist()
    box = mask_box((guide.alpha[shown] > 0.1).any(0)) or (slice(None), slice(None))
    for t in shown:
        grey = [values[t][..., None].expand(-1, -1, 3) for values in (guide.confidence, 2 * verdict.weight)]
        result = torch.nan_to_num(made.rgb[t])[box].clone()
        if not verdict.kept[t]:
            red = torch.tensor([0.9, 0.1, 0.1])
            edge = max(2, len(result) // 40)
            result[:edge], result[-edge:], result[:, :edge], result[:, -edge:] = red, red, red, red
        column = torch.cat([guide.rgb[t][box], grey[0][box], result, grey[1][box]])
        height = round(160 * column.shape[0] / column.shape[1])
        columns.append(cv2.resize(to_bytes(column), (160, height), interpolation=cv2.INTER_AREA))
    pictures = np.concatenate(columns, 1)
    labelled = np.pad(pictures, ((22, 0), (MARGIN, 0), (0, 0)), constant_values=255)
    words = [(6, 16, f"{guide.name}: {_kept(guide, verdict)}")]
    words += [(6, 22 + round((i + 0.5) * len(pictures) / len(ROWS)), name) for i, name in enumerate(ROWS)]
    for x, y, text in words:
        cv2.putText(labelled, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return labelled


def stacked(pictures: list[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures below each other, white beside the narrower ones."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([np.pad(p, ((0, 4), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures])


def facts(job: Job, config: RegenerateConfig, device: str) -> tuple[str, ...]:
    """What made the views: weights, a model's files, another package's code; and the cameras file's content."""
    if config.generator == "fill":
        found = [f"migan {'present' if weights.locate('migan') else 'absent'}"]
    elif config.generator == "video":
        found = ["model " + files_of(config.model)]
    else:
        found = ["code " + code_of(config.generator)]
    if config.cameras and Path(config.cameras).is_file():
        found.append("cameras " + weights.digest(Path(config.cameras)))
    return tuple(found)


def load(folder: Path) -> Capture:
    return replace(load_capture(folder), folder=folder)


STAGE = Stage(
    name="regenerate", needs=("ingest", "train"), config=RegenerateConfig, version=2,
    run=run, save=save_capture, load=load, check=check, facts=facts,
)  # fmt: skip
