"""Stages, and a run on disk: fingerprints, seals and atomic writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourdgen.report import Reporter


@dataclass(frozen=True)
class Job:
    """What one `reconstruct` was asked for, paths only. All paths are absolute."""

    inputs: tuple[Path, ...]
    output: Path  # the scene.ply
    run_folder: Path
    cameras: Path | None = None
    masks: Path | None = None


@dataclass(frozen=True)
class Context:
    """What a stage may know beside its settings and the artifacts it needs.

    `folder` is the stage's working folder. It survives a kill as long as the stage's key stays the same, so that
    checkpoints may be kept in it; whatever lies in it when `run` returns is sealed beside the artifact.
    """

    folder: Path
    job: Job
    device: str  # "cpu" or "cuda"
    threads: int
    seed: int
    report: Reporter


def no_files(job: Job) -> tuple[Path, ...]:
    """A stage that reads nothing but the artifacts of other stages."""
    return ()


def no_facts(job: Job, config: Any, device: str) -> tuple[str, ...]:
    """A stage whose result depends on nothing beyond settings, seed, device kind and inputs."""
    return ()


@dataclass(frozen=True)
class Stage:
    """One step of the method: a record and a function.

    run(ctx, config, *artifacts of `needs`, in that order) -> artifact.
    save(artifact, folder) and load(folder) -> artifact write and read the artifact (json, npz, png, ply, safetensors).
    files(job): input files or folders that this stage reads; they are hashed by content.
    facts(job, config, device): whatever else the result depends on, as strings: the renderer's name, hashes of weights.
    check(job, config): raises FourdgenError for what can be known before any work; must be quick.
    `version` grows whenever the same settings would give another result.
    """

    name: str
    needs: tuple[str, ...]
    config: type
    version: int
    run: Callable[..., Any]
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]
    files: Callable[[Job], tuple[Path, ...]] = no_files
    facts: Callable[[Job, Any, str], tuple[str, ...]] = no_facts
    check: Callable[[Job, Any], None] | None = None
