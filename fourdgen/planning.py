"""Recipe -> checked plan. What can be known before the first second of work is checked before it."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fourdgen import config as settings
from fourdgen import disk, workspace
from fourdgen.machine import DEVICES, check_device, machine_threads, pick_device
from fourdgen.report import FourdgenError, absent, all_at_once
from fourdgen.workspace import Job, Stage

STAGES = {
    "ingest": "fourdgen.stages.ingest",  # frames, masks, flow
    "align": "fourdgen.stages.align",  # first poses of each clip, all clips in one root frame
    "root_pose": "fourdgen.stages.root_pose",  # joint root poses, focal lengths
    "sample": "fourdgen.stages.sample",  # which frames train, how often
    "train": "fourdgen.stages.train",  # surfels and motion
    "regenerate": "fourdgen.stages.regenerate",  # confidence-filtered new views, in rounds
    "export": "fourdgen.stages.export",  # scene.ply
}
SCENE = "scene.ply"  # what the export stage leaves in its folder


@dataclass(frozen=True)
class Request:
    """What a person asks of `reconstruct`. Paths may be relative.

    pipeline: recipe name or .toml file; None takes quality with a GPU and fast without.
    settings: `section.key=value` texts; of two for the same setting the later one wins.
    options: setting -> the option of the command line by which it was given (`align.sweep` -> `--sweep`), for messages.
    run_folder: None puts it beside the output, scene.ply -> scene.run. threads: None takes what the machine offers.
    command: how the run was started, for run.toml only.
    """

    inputs: tuple[Path, ...]
    output: Path
    pipeline: str | None = None
    settings: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    cameras: Path | None = None
    masks: Path | None = None
    run_folder: Path | None = None
    device: str = "auto"
    seed: int = 0
    threads: int | None = None
    fresh: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One stage of a plan. state: done (will be skipped), part (goes on), stale (runs again), new."""

    stage: Stage
    config: Any
    folder: Path
    key: str
    state: str


@dataclass(frozen=True)
class Plan:
    recipe: settings.Recipe
    job: Job
    device: str
    seed: int
    threads: int
    rows: tuple[Row, ...]


def plan(request: Request) -> Plan:
    """Everything about a run that can be known without doing it. Raises one FourdgenError with all that is wrong."""
    errors: list[FourdgenError] = []

    def attempt(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except FourdgenError as error:
            errors.append(error)
        except OSError as error:
            if error.filename is None:
                raise
            reason = (error.strerror or str(error)).lower()
            errors.append(FourdgenError(f"{error.filename}: cannot be read: {reason}", "check who may read it"))
        return None

    job = job_of(request)
    attempt(lambda: _check_numbers(request))
    paths_are_there = attempt(lambda: _check_paths(job))
    attempt(lambda: _check_output(job))
    attempt(lambda: check_device(request.device))
    recipe, chosen, configs = None, None, None
    name = request.pipeline
    if name is not None:
        recipe = attempt(functools.partial(settings.load_recipe, name))
    if errors and not paths_are_there and not request.settings:
        raise all_at_once(errors)  # What follows takes seconds to import and would find nothing more to say.
    device = attempt(lambda: pick_device(request.device)) if request.device in DEVICES else None
    if name is None and device is not None:
        recipe = attempt(lambda: settings.load_recipe("quality" if device == "cuda" else "fast"))
    if recipe is not None:
        chosen = attempt(lambda: stages_of(recipe))
    if recipe is not None and chosen is not None:
        kinds = {stage.name: stage.config for stage in chosen}
        configs, mistakes = settings.resolve_sound(recipe, kinds, request.settings, request.options)
        errors += mistakes
    if configs is not None and chosen is not None and paths_are_there:
        for stage in chosen:
            if stage.check is not None and stage.name in configs:
                attempt(functools.partial(stage.check, job, configs[stage.name]))
    if errors:
        raise all_at_once(errors)
    assert recipe is not None  # or there would have been an error, and so with the other two
    assert chosen is not None
    assert configs is not None
    assert device is not None
    chosen, configs = with_rounds(chosen, configs)
    rows = _rows(chosen, configs, job, device, request.seed, request.fresh)
    return Plan(recipe, job, device, request.seed, request.threads or machine_threads(), rows)


def job_of(request: Request) -> Job:
    """The request's paths, absolute. `clip.mp4` given twice is one input."""
    output = request.output.absolute()
    run = request.run_folder.absolute() if request.run_folder else output.with_suffix(".run")
    return Job(
        inputs=tuple(dict.fromkeys(path.absolute() for path in request.inputs)),
        output=output,
        run_folder=run,
        cameras=request.cameras.absolute() if request.cameras else None,
        masks=request.masks.absolute() if request.masks else None,
    )


def _check_numbers(request: Request) -> None:
    errors = []
    if request.threads is not None and request.threads < 1:
        errors.append(FourdgenError(f"--threads {request.threads}: at least 1 is needed"))
    if not 0 <= request.seed < 2**32:
        errors.append(FourdgenError(f"--seed {request.seed}: a whole number from 0 to {2**32 - 1} is needed"))
    if errors:
        raise all_at_once(errors)


def _check_paths(job: Job) -> bool:
    errors = []
    if not job.inputs:
        errors.append(FourdgenError("no input", "name at least one video file or image folder"))
    for path in job.inputs:
        if not path.exists():
            errors.append(absent(path, "give video files or folders of pictures"))
    if job.cameras is not None and not job.cameras.exists():
        errors.append(absent(job.cameras, "--cameras takes a transforms.json or the folder of a COLMAP model"))
    if job.masks is not None and not job.masks.exists():
        errors.append(absent(job.masks, "--masks takes a folder: DIR/<clip>/*.png, or DIR/*.png for one clip"))
    if errors:
        raise all_at_once(errors)
    return True


def _check_output(job: Job) -> None:
    if job.output.is_dir():
        raise FourdgenError(f"{job.output}: is a folder", f"name the file: -o {job.output / SCENE}")
    if job.output.suffix.lower() != ".ply":
        raise FourdgenError(
            f"{job.output.name}: reconstruct writes a .ply", "use `fourdgen export` on it for other formats"
        )
    if job.run_folder.exists() and not job.run_folder.is_dir():
        raise FourdgenError(f"{job.run_folder}: is a file, not a run folder", "choose another with --run")
    for folder in (job.output.parent, job.run_folder):
        disk.check_writable(folder)
    workspace.check_run_folder(job.run_folder)


def stage_of(name: str) -> Stage:
    """One row of the table, imported."""
    stage: Stage = importlib.import_module(STAGES[name]).STAGE
    return stage


def stages_of(recipe: settings.Recipe) -> list[Stage]:
    """The stages that a recipe names. Raises FourdgenError: unknown, out of order, or no export at the end."""
    errors, before = [], []
    for name in recipe.stages:
        if name not in STAGES:
            guess = settings.did_you_mean(name, STAGES)
            errors.append(FourdgenError(f"{recipe.path}: {name}: no such stage{guess}", f"stages: {', '.join(STAGES)}"))
    if errors:
        raise all_at_once(errors)
    chosen = [stage_of(name) for name in recipe.stages]
    for stage in chosen:
        if stage.name in before:
            errors.append(FourdgenError(f"{recipe.path}: {stage.name}: stands twice in the list of stages"))
        missing = [name for name in stage.needs if name not in before]
        if missing:
            errors.append(FourdgenError(f"{recipe.path}: {stage.name}: needs {', '.join(missing)} before it"))
        before.append(stage.name)
    if recipe.stages[-1] != "export":
        errors.append(FourdgenError(f"{recipe.path}: the last stage has to be export", "it writes scene.ply"))
    if errors:
        raise all_at_once(errors)
    return chosen


def with_rounds(chosen: list[Stage], configs: Mapping[str, Any]) -> tuple[list[Stage], dict[str, Any]]:
    """The rows of a plan: `regenerate` becomes regenerate-N and train-N for each of its rounds, and whatever follows
    takes the last round's asset for that of `train`. Without rounds it has no row."""
    rows: list[Stage] = []
    settled = dict(configs)
    latest = {"train": "train"}
    for stage in chosen:
        if stage.name != "regenerate":
            rows.append(replace(stage, needs=tuple(latest.get(name, name) for name in stage.needs)))
            continue
        settings = settled.pop("regenerate")
        train_round: Stage = importlib.import_module(STAGES["train"]).ROUND if settings.rounds else stage
        for number in range(1, settings.rounds + 1):
            views, again = f"regenerate-{number}", f"train-{number}"
            for name, row in ((views, stage), (again, train_round)):
                needs = tuple(latest.get(need, need) for need in row.needs)
                rows.append(replace(row, name=name, needs=needs))
                latest |= {"regenerate": views}
            # What a round makes does not depend on how many follow: more of them redo none.
            settled |= {views: replace(settings, rounds=number), again: settled["train"]}
            latest["train"] = again
    return rows, settled


def _rows(
    chosen: list[Stage], configs: Mapping[str, Any], job: Job, device: str, seed: int, fresh: bool
) -> tuple[Row, ...]:
    keys: dict[str, str] = {}
    rows = []
    for number, stage in enumerate(chosen, 1):
        config = configs[stage.name]
        key = workspace.stage_key(stage, config, job, device, seed, [keys[name] for name in stage.needs])
        keys[stage.name] = key
        folder = job.run_folder / f"{number:02d}-{stage.name}"
        rows.append(Row(stage, config, folder, key, "new" if fresh else workspace.state_of(folder, key)))
    return tuple(rows)
