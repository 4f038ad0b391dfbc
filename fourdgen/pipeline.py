"""A plan's stages in order: each is run, gone on with, or skipped because it is done."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fourdgen import account, disk, receipt, workspace
from fourdgen.machine import use_threads
from fourdgen.planning import SCENE, Plan, Request, Row, job_of, plan
from fourdgen.report import EventLog, FourdgenError, Reporter, Silent, peak_memory_mb, reset_peak_memory
from fourdgen.workspace import Context


@dataclass(frozen=True)
class Result:
    """scene: the scene.ply. seconds: of this call. stages: seconds of each stage, over all the attempts it took."""

    scene: Path
    run_folder: Path
    seconds: float
    stages: Mapping[str, float]


def reconstruct(request: Request, report: Reporter | None = None) -> Result:
    """Videos in, scene.ply out. Goes on where an earlier run of the same request stopped.

    Raises FourdgenError for everything the caller can put right; KeyboardInterrupt leaves the run resumable.
    """
    began = time.monotonic()
    job = job_of(request)
    ticket = receipt.request_key(request, job)
    before = None if request.fresh else receipt.finished(job, ticket)
    if before is not None:
        for name, spent in before.items():
            (report or Silent()).emit("stage", stage=name, state="skipped", seconds=spent)
        for folder in workspace.stage_folders(job.run_folder):
            _tell_facts(disk.read_json(folder / workspace.SEAL), report or Silent())
        return Result(job.output, job.run_folder, time.monotonic() - began, before)
    planned = plan(request)
    new = not job.run_folder.exists()
    with disk.clear_errors(job.run_folder, job.output.parent):
        disk.make_folder(job.output.parent, report or Silent())
        disk.make_folder(job.run_folder.parent, report or Silent())
        job.run_folder.mkdir(exist_ok=True)
        with workspace.lock(job.run_folder), workspace.made_for_nothing(job.run_folder, new):
            if request.fresh:
                workspace.clear_run(job.run_folder)
            log = EventLog(job.run_folder / workspace.LOG, report or Silent())
            try:
                account.write_run(planned, request.command)
                seconds = _run(planned, log)
                receipt.leave(job, ticket, {row.folder.name: row.key for row in planned.rows}, seconds)
            except BaseException as error:
                log.emit("stopped", error=type(error).__name__, text=str(error))
                raise
            finally:
                log.close()
    return Result(job.output, job.run_folder, time.monotonic() - began, seconds)


def _run(planned: Plan, report: Reporter) -> dict[str, float]:
    """Runs or skips every row. An artifact is loaded only when a stage that runs needs it, and always from disk, so
    that a stage sees the same whether or not the process was stopped before it."""
    use_threads(planned.threads)
    seconds: dict[str, float] = {}
    loaded: dict[str, Any] = {}
    by_name = {row.stage.name: row for row in planned.rows}
    for row in planned.rows:
        name = row.stage.name
        if workspace.finish(row.folder, row.key):
            record = disk.read_json(row.folder / workspace.SEAL)
            seconds[name] = float(record.get("seconds", 0.0))
            report.emit("stage", stage=name, state="skipped", seconds=seconds[name])
            _tell_facts(record, report)
            continue
        for need in row.stage.needs:
            if need not in loaded:
                loaded[need] = _load(by_name[need])
        needed = [loaded[need] for need in row.stage.needs]
        seconds[name] = _run_stage(row, planned, needed, report)
    source = planned.rows[-1].folder / SCENE
    if not planned.job.output.exists() or workspace.hash_path(planned.job.output) != workspace.hash_path(source):
        disk.write_atomically(planned.job.output, source.read_bytes())
    return seconds


def _tell_facts(record: Mapping[str, Any], report: Reporter) -> None:
    """What a finished stage had to say for the closing line: it is as true when the stage is skipped."""
    for name, text in record.get("facts", {}).items():
        report.emit("fact", name=name, text=text)


class _Facts:
    """Hands everything on, and keeps the facts for the stage's seal."""

    def __init__(self, onward: Reporter) -> None:
        self.onward = onward
        self.found: dict[str, str] = {}

    def emit(self, event: str, **fields: Any) -> None:
        if event == "fact":
            self.found[str(fields["name"])] = str(fields["text"])
        self.onward.emit(event, **fields)

    def warn(self, message: str) -> None:
        self.onward.warn(message)


def _load(row: Row) -> Any:
    try:
        return row.stage.load(row.folder)
    except FileNotFoundError as error:
        raise FourdgenError(
            f"{row.folder}: something is missing: {Path(error.filename or '').name}",
            "delete that folder and run the same command again",
        ) from error


def _run_stage(row: Row, planned: Plan, needed: list[Any], report: Reporter) -> float:
    name = row.stage.name
    part, spent = workspace.open_part(row.folder, row.key, row.stage.keeps)
    report.emit("stage", stage=name, state="started", resumed=spent > 0)
    facts = _Facts(report)
    context = Context(part, planned.job, planned.device, planned.threads, planned.seed, facts)
    _seed_everything(planned.seed, name)
    reset_peak_memory()
    began = time.monotonic()
    artifact = row.stage.run(context, row.config, *needed)
    row.stage.save(artifact, part)
    seconds = spent + time.monotonic() - began
    record = {
        "stage": name,
        "version": row.stage.version,
        "seconds": round(seconds, 3),
        "peak_mb": round(peak_memory_mb(), 1),
        "gpu_peak_mb": _gpu_peak_mb(planned.device),
        "settings": workspace.settings_of(row.config),
        "device": planned.device,
        "seed": planned.seed,
        "threads": planned.threads,
        "versions": workspace.versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "facts": facts.found,
    }
    workspace.seal(row.folder, row.key, record)
    picture = row.folder / "check.png"
    extra = {"check": picture} if picture.is_file() else {}
    report.emit("stage", stage=name, state="done", seconds=seconds, peak_mb=record["peak_mb"], **extra)
    return seconds


def _seed_everything(seed: int, stage: str) -> None:
    """A stage's random numbers must not depend on which stages ran before it in this process."""
    import numpy as np
    import torch

    derived = int.from_bytes(hashlib.sha256(f"{seed}/{stage}".encode()).digest()[:4], "little")
    random.seed(derived)
    np.random.seed(derived)  # noqa: NPY002 - libraries that draw from the global generator are the reason for this
    torch.manual_seed(derived)


def _gpu_peak_mb(device: str) -> float | None:
    if device != "cuda":
        return None
    import torch

    peak = torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 1)
