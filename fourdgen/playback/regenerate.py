"""The verb `regenerate`: videos of new views of an asset, made under its guidance."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fourdgen import config as settings
from fourdgen import disk, workspace
from fourdgen.data.cameras_io import CameraEntry, write_transforms_json
from fourdgen.data.capture import to_bytes, write_png
from fourdgen.data.video import write_video
from fourdgen.generate import Generated, Guide, footage_of, paths
from fourdgen.generate.accept import Verdict
from fourdgen.generate.video import GUIDING
from fourdgen.playback.filmed import filmed_frames
from fourdgen.report import FourdgenError, Reporter, Silent, all_at_once
from fourdgen.scene import files
from fourdgen.scene.scene4d import Scene4D
from fourdgen.stages import regenerate as stage
from fourdgen.stages.regenerate import RegenerateConfig

WORK = "work"  # what a stopped call has finished; gone when the call is over
PREFIX = "regenerate."
ENDINGS = ("_guide", "_mask", "")  # of a view's films
OPTIONS = ("views", "cameras", "clip", "generator", "model", "prompt")  # of the verb; other settings go through --set


@dataclass(frozen=True)
class RegenerateRequest:
    """What `fourdgen regenerate` was asked for. `settings`: texts such as `regenerate.generator=video`.

    `cameras` gives the paths instead of `views` paths into the least covered directions. None is not asked for.
    """

    output: Path
    views: int | None = None
    cameras: Path | None = None
    clip: str | None = None
    generator: str | None = None
    model: str | None = None
    prompt: str | None = None
    seed: int = 0
    settings: Sequence[str] = ()


@contextlib.contextmanager
def naming_options() -> Iterator[None]:
    """Errors of settings, which recipes call `regenerate.views`, name what the verb calls them: `--views`."""

    def renamed(text: str) -> str:
        def option(found: re.Match[str]) -> str:
            name, equals = found[1], found[2] or ""
            return f"--{name}{' ' if equals else ''}" if name in OPTIONS else f"--set {name}{equals}"

        return re.sub(rf"(?:--set )?\b{re.escape(PREFIX)}(\w+)(=?)", option, text)

    try:
        yield
    except FourdgenError as error:
        raise all_at_once([FourdgenError(renamed(p.message), renamed(p.hint)) for p in error.parts]) from error


@naming_options()
def resolve(request: RegenerateRequest) -> RegenerateConfig:
    """The settings of a request. Raises FourdgenError for everything that can be known before any work."""
    if request.output.is_file():
        raise FourdgenError(f"{request.output} is a file", "name a folder with -o")
    for text in request.settings:
        if "=" not in text:
            raise FourdgenError(f"--set {text}: expected key=value", "for example --set every=4")
    given = {name: getattr(request, name) for name in OPTIONS}
    texts = [f"{PREFIX}{name}={value}" for name, value in given.items() if value is not None]
    if request.model is not None and request.generator is None:
        texts.append(f"{PREFIX}generator=video")
    texts += [text if "." in text.partition("=")[0] else PREFIX + text for text in request.settings]
    named = {text.partition("=")[0].strip().removeprefix(PREFIX) for text in texts}
    if "rounds" in named:
        raise FourdgenError(
            f"{PREFIX}rounds: views are made once here, and nothing is trained", "rounds belong to reconstruct"
        )
    idle = [PREFIX + name for name in ("views", "clip", "every") if name in named]
    if "cameras" in named and idle:
        raise FourdgenError(
            f"{' and '.join(idle)} beside {PREFIX}cameras: that file says which views, frames and clips",
            "leave one of them out",
        )
    nothing = settings.Recipe("regenerate", Path("regenerate"), "", ("regenerate",))
    chosen: RegenerateConfig = settings.resolve(nothing, {"regenerate": RegenerateConfig}, texts)["regenerate"]
    unheard = [PREFIX + name for name in stage.BY_MODEL if name in named and name != "fetch"]
    if chosen.generator != "video" and unheard:
        raise FourdgenError(f"{' and '.join(unheard)}: only a video model is told that", "name one with --model")
    chosen = replace(chosen, rounds=1)
    stage.check(workspace.Job((), request.output, request.output), chosen)
    return chosen


@naming_options()
def regenerate(
    scene_path: Path, request: RegenerateRequest, report: Reporter = Silent(), device: str = "cpu"
) -> dict[str, dict[str, object]]:
    """Writes NAME_guide.mp4 (what the asset shows), NAME_mask.mp4 (white: free to be made) and NAME.mp4 (the result) of
    each view, and coverage.png, check.png, cameras.json and views.json for all. Returns what views.json holds: how much
    of each view is believed.

    A call that was stopped goes on where it was. Raises FourdgenError.
    """
    chosen = resolve(request)
    scene = files.read(scene_path, report)
    footage = footage_of(scene, filmed_frames(scene))
    planned = stage.plan(scene, chosen)
    output = request.output
    with disk.clear_errors(output):
        disk.make_folder(output.parent, report)
        output.mkdir(exist_ok=True)
        job = workspace.Job((), scene_path, output)
        facts = stage.facts(job, chosen, device)
        key = f"{workspace.hash_path(scene_path)} {workspace.settings_of(chosen)} {request.seed} {device} {facts}"
        work = output / f".{WORK}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        for other in output.glob(f".{WORK}-*"):
            if other != work:  # of a stopped call that asked for something else
                workspace.remove(other)
        work.mkdir(exist_ok=True)
        context = workspace.Context(work, job, device, torch.get_num_threads(), request.seed, report)
        write_png(output / "coverage.png", paths.picture(scene, planned))
        write_transforms_json(output / "cameras.json", entries_of(scene, planned))
        found, rows = {}, []
        for guide, made, verdict in stage.views(context, chosen, footage, planned):
            write_films(output, guide, made)
            rows.append(stage.check_row(guide, made, verdict))
            found[guide.name] = judged(guide, verdict)
        write_png(output / "check.png", stage.stacked(rows))
        remove_views(output, keep=found)
        (output / "views.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        workspace.remove(work)
    return found


def write_films(folder: Path, guide: Guide, made: Generated) -> None:
    """Guide, mask and result of a view, as fast as the clip's time goes by."""
    gaps = guide.seconds[1:] - guide.seconds[:-1]
    gap = float(gaps.median()) if len(gaps) else 0.0  # 0 where many cameras look at one moment
    fps = min(240.0, max(1.0, round(1 / gap, 3))) if gap > 0 else 24.0
    free = (guide.confidence <= GUIDING).float()[..., None].expand(-1, -1, -1, 3)
    for ending, pictures in zip(ENDINGS, (guide.rgb, free, torch.nan_to_num(made.rgb)), strict=True):
        write_video(folder / f"{guide.name}{ending}.mp4", (np.ascontiguousarray(to_bytes(p)) for p in pictures), fps)


def remove_views(folder: Path, keep: Collection[str]) -> None:
    """Removes the films of views that an earlier call wrote here and this one did not."""
    listed = folder / "views.json"
    before = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else {}
    for name in set(before) - set(keep):
        for ending in ENDINGS:
            (folder / f"{name}{ending}.mp4").unlink(missing_ok=True)


def judged(guide: Guide, verdict: Verdict) -> dict[str, object]:
    """A row of the report about one view. confident: share of the asset's pixels that guide; weight: mean weight of the
    pixels of the view's subject."""
    subject = verdict.alpha > 0.5
    return {
        "clip": guide.clip,
        "frames": len(guide),
        "kept": int(verdict.kept.sum()),
        "reason": verdict.reason,
        "confident": float(
            ((guide.confidence > GUIDING) & (guide.alpha > 0.5)).sum() / (guide.alpha > 0.5).sum().clamp_min(1)
        ),
        "weight": float(verdict.weight[subject].sum() / subject.sum().clamp_min(1)),  # 0 where nothing is in sight
    }


def entries_of(scene: Scene4D, planned: Sequence[paths.Path]) -> list[CameraEntry]:
    """The paths as a cameras file, in the user's coordinates where the scene has them: `--cameras` takes it again."""
    entries = []
    for path in planned:
        poses = path.cameras.cam_from_world.double()
        if scene.world_from_input is not None:
            poses = scene.world_from_input.inverse().move_cameras(poses).double()
        clip = scene.clips[path.clip]
        for t, seconds in enumerate(path.seconds.tolist()):
            number = int(clip.frame_ids[int((clip.seconds - seconds).abs().argmin())])
            view = path.name.removeprefix(f"{path.clip}-")
            entries.append(
                CameraEntry(f"{path.name}/{t:05d}.png", poses[t], path.cameras.K[t].double(), path.cameras.size,
                            path.clip, number, view)
            )  # fmt: skip
    return entries
