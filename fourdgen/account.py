"""What a run says about itself: the plan before it, run.toml and the state of its stages after it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourdgen import config as settings
from fourdgen import disk, workspace
from fourdgen.report import FourdgenError, Reporter, Silent, absent, duration, table

if TYPE_CHECKING:
    from fourdgen.planning import Plan, Row

WORDS = {
    "done": "skip, already done",
    "part": "go on where it stopped",
    "stale": "run again, out of date",
    "new": "run",
}

_HELP = "options in brackets are for `fourdgen reconstruct`; 02-align/check.png in the run folder shows frame by frame"


def describe(planned: Plan) -> str:
    """The plan as text: what will be run or skipped, and which settings differ from the defaults."""
    job = planned.job
    rows = []
    for row in planned.rows:
        said = "  ".join(f"{key}={_value(value)}" for key, value in _settings(row, planned))
        rows.append((row.folder.name, WORDS[row.state], said))
    lines = [
        f"recipe   {planned.recipe.name}: {planned.recipe.title}",
        f"time     {'for comparison: ' + planned.recipe.time if planned.recipe.time else 'not stated by this recipe'}",
        f"inputs   {', '.join(map(str, job.inputs))}",
        f"cameras  {job.cameras or 'to be found'}",
        *([f"masks    {job.masks}"] if job.masks else []),
        f"output   {job.output}",
        f"run      {job.run_folder}",
        f"device   {planned.device}, {planned.threads} threads, seed {planned.seed}",
        "",
        table(rows, ("stage", "what happens", "settings of the recipe and of this command")),
    ]
    return "\n".join(lines)


def _settings(row: Row, planned: Plan) -> list[tuple[str, Any]]:
    """What the recipe or the command says about a stage; the rest is at its defaults."""
    said = {**planned.recipe.settings.get(row.stage.name.partition("-")[0], {}), **settings.differences(row.config)}
    return [(f.name, getattr(row.config, f.name)) for f in fields(row.config) if f.name in said]


def plan_rows(planned: Plan) -> list[dict[str, Any]]:
    """The plan as plain data, for --json and the log."""
    return [
        {"stage": row.stage.name, "folder": str(row.folder), "state": row.state, "key": row.key,
         "settings": workspace.settings_of(row.config)}
        for row in planned.rows
    ]  # fmt: skip


def write_run(planned: Plan, command: tuple[str, ...]) -> None:
    """run.toml: how the run was started, and every setting of it."""
    job = planned.job
    sections: dict[str, Mapping[str, Any]] = {
        "run": {
            "recipe": planned.recipe.name,
            "recipe_file": str(planned.recipe.path),
            "title": planned.recipe.title,
            "command": list(command),
            "device": planned.device,
            "seed": planned.seed,
            "threads": planned.threads,
            "stages": list(planned.recipe.stages),
        },
        "paths": {
            "inputs": [str(path) for path in job.inputs],
            "cameras": str(job.cameras) if job.cameras else None,
            "masks": str(job.masks) if job.masks else None,
            "output": str(job.output),
        },
        "versions": workspace.versions(),
        "changed": {
            f"{row.stage.name}.{key}": value
            for row in planned.rows
            for key, value in settings.differences(row.config).items()
        },
        "keys": {row.folder.name: row.key for row in planned.rows},
    }
    for row in planned.rows:
        sections[row.stage.name] = workspace.settings_of(row.config)
    lines = ["# Written by fourdgen. [changed] holds what differs from the defaults."]
    for section, values in sections.items():
        lines += ["", f"[{section}]"]
        for key, value in values.items():
            lines.append(f"{_name(key)} = {_value(value)}" if value is not None else f"# {_name(key)} is not set")
    disk.write_atomically(job.run_folder / workspace.RUN, ("\n".join(lines) + "\n").encode())


def _name(key: str) -> str:
    """A key as TOML."""
    return key if key.replace("_", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_name(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps("none" if value is None else str(value), ensure_ascii=False)


def status(run_folder: Path) -> list[dict[str, Any]]:
    """What a run folder holds, stage by stage: state (done, stale, unfinished, missing), seconds, peak_mb, checkpoint.

    Raises FourdgenError when it is not a run folder.
    """
    if not run_folder.exists():
        raise absent(run_folder, "`reconstruct` makes a run folder beside its output")
    path = run_folder / workspace.RUN
    if not path.is_file():
        raise FourdgenError(f"{run_folder}: not a run folder of fourdgen", "`reconstruct` makes one beside its output")
    try:
        keys = tomllib.loads(path.read_text(encoding="utf-8"))["keys"]
    except (tomllib.TOMLDecodeError, KeyError, UnicodeDecodeError) as error:
        raise FourdgenError(f"{path}: cannot be read: {error}", "run reconstruct again") from error
    rows = []
    for name, key in keys.items():
        folder = run_folder / name
        record = disk.read_json(folder / workspace.SEAL)
        part = workspace.part_of(folder)
        work = disk.read_json(part / workspace.WORK)
        state = {"done": "done", "part": "unfinished", "stale": "stale", "new": "missing"}[
            workspace.state_of(folder, key)
        ]
        kept = sorted(item.name for item in part.glob("*checkpoint*")) if work.get("key") == key else []
        rows.append({
            "stage": name, "state": state, "seconds": record.get("seconds"), "peak_mb": record.get("peak_mb"),
            "finished": record.get("finished"), "checkpoint": kept[0] if kept else None,
        })  # fmt: skip
    return rows


def status_text(run_folder: Path, rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["stage"],
            row["state"] + (f" (checkpoint {row['checkpoint']})" if row["checkpoint"] else ""),
            duration(row["seconds"]) if row["seconds"] is not None else "",
            f"{row['peak_mb']:.0f} MB" if row["peak_mb"] is not None else "",
            row["finished"] or "",
        )
        for row in rows
    ]
    total = sum(row["seconds"] or 0.0 for row in rows)
    return (
        f"{run_folder}\n{table(cells, ('stage', 'state', 'time', 'peak', 'finished'))}\nall stages: {duration(total)}"
    )


def scene_facts(path: Path, report: Reporter = Silent()) -> dict[str, Any]:
    """What a scene.ply holds, as plain data. Raises FourdgenError when it cannot be read."""
    from fourdgen.scene import ply

    ply.check(path)  # before torch is imported, which takes longer than everything else here
    from fourdgen.scene import files

    scene = files.read(path, report)
    confidence = scene.surfels.confidence
    clips = []
    for clip in scene.clips.values() if files.MADE_UP not in scene.notes else ():
        seconds = clip.seconds
        clips.append({
            "name": clip.name, "frames": len(seconds), "seconds": round(float(seconds[-1] - seconds[0]), 3),
            "size": list(clip.cameras.size), "reference": clip.name == scene.reference,
        })  # fmt: skip
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "surfels": len(scene.surfels),
        "sh_degree": round(scene.surfels.sh.shape[1] ** 0.5) - 1,
        "motion": type(scene.motion).__name__,
        "bones": _bones(scene.motion),
        "clips": clips,
        "poses": scene.notes.get("poses"),
        "confidence": None if confidence is None else round(float(confidence.mean()), 3),
        "own_coordinates": scene.world_from_input is None,
        "run_folder": scene.run_folder or None,
        "run_folder_exists": bool(scene.run_folder) and Path(scene.run_folder).is_dir(),
        "notes": dict(scene.notes),
    }


def scene_text(facts: Mapping[str, Any]) -> str:
    clips = [
        (
            clip["name"] + (" (reference)" if clip["reference"] else ""),
            f"{clip['frames']} frames",
            f"{clip['seconds']:.2f} s",
            "x".join(map(str, clip["size"])),
        )
        for clip in facts["clips"]
    ]
    run = facts["run_folder"] or "not named"
    rows = [
        ("file", f"{facts['file']} ({facts['bytes'] / 1e6:.2f} MB)"),
        ("surfels", f"{facts['surfels']}, spherical harmonics of degree {facts['sh_degree']}"),
        ("motion", f"{facts['bones']} bones" if facts["bones"] else "none, it stands still"),
        ("poses", facts["poses"] or "not said"),
        *([("", _HELP)] if "(--" in (facts["poses"] or "") else []),
        ("confidence", "not measured" if facts["confidence"] is None else f"{facts['confidence']:.2f} on average"),
        ("coordinates", "its own" if facts["own_coordinates"] else "those of the cameras that were given"),
        (
            "run folder",
            run + ("" if facts["run_folder_exists"] or not facts["run_folder"] else " (not there any more)"),
        ),
        *((f"note: {name}", text) for name, text in facts["notes"].items() if name != "poses"),
    ]
    shown = table(clips, ("clip", "frames", "length", "size")) if clips else "no clips: a still file of splats"
    return f"{table(rows)}\n\n{shown}"


def _bones(motion: Any) -> int:
    """How many bones move the surfels; none where the scene stands still."""
    from fourdgen.scene.motion import SampledBones

    return len(motion.centers) if isinstance(motion, SampledBones) else 0
