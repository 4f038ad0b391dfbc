"""Stages, and a run on disk: fingerprints, folders and seals."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from fourdgen.disk import read_json, write_atomically, write_json
from fourdgen.report import FourdgenError, Reporter


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
    keeps: a pattern of file names. Such files say in their names what they depend on, so they outlive a change of the
    stage's key: what an earlier run left of them lies in the working folder. The stage removes those it has no use for.
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
    keeps: str = ""


# --------------------------------------------------------------------------------------------------------------
# Keys: what a stage's result depends on, as one hash.


def hash_path(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of everything in a folder."""
    digest = hashlib.sha256()
    if path.is_dir():
        for item in sorted(path.rglob("*")):
            if item.is_file():
                digest.update(item.relative_to(path).as_posix().encode() + b"\0" + hash_path(item).encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def telling_folders(paths: Sequence[Path]) -> list[str]:
    """For paths of one name, the folder by which each is known: the nearest above them in which all differ
    (fox/clips/a.mp4, shiba/clips/a.mp4: fox, shiba), else the one that they lie in."""
    above = [path.absolute().parents for path in paths]
    for level in zip(*above, strict=False):
        names = [folder.name for folder in level]
        if all(names) and len(set(names)) == len(names):
            return names
    return [folders[0].name for folders in above]


def alike(names: Sequence[str]) -> list[list[int]]:
    """Which of the names are the same, as groups of their numbers."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def input_names(paths: Sequence[Path]) -> list[str]:
    """What of each path's name counts: clips are called after their files, and after folders where these clash."""
    names = [path.name for path in paths]
    for group in alike([path.stem for path in paths]):
        for i, folder in zip(group, telling_folders([paths[i] for i in group]), strict=True):
            names[i] = f"{folder}/{names[i]}"
    return names


def stage_key(stage: Stage, config: Any, job: Job, device: str, seed: int, needed: Sequence[str]) -> str:
    """The key of a stage: settings, version, seed, device kind, facts, contents of its files, keys of what it needs."""
    files = stage.files(job)
    parts = {
        "stage": stage.name,
        "version": stage.version,
        "settings": settings_of(config),
        "device": device,
        "seed": seed,
        "facts": list(stage.facts(job, config, device)),
        "files": [[name, hash_path(path)] for name, path in zip(input_names(files), files)],
        "needs": list(needed),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def settings_of(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


# --------------------------------------------------------------------------------------------------------------
# A stage's folder. `NN-name.part` while it works, `NN-name` once it is finished: a finished-looking folder is finished.

SEAL = "stage.json"  # written last
WORK = "work.json"  # written first: whose checkpoints lie here


def part_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".part")


def _old_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".old")


def state_of(folder: Path, key: str) -> str:
    """done: can be skipped. part: unfinished work with this key lies there. stale: made with another key. new."""
    if read_json(folder / SEAL).get("key") == key or read_json(part_of(folder) / SEAL).get("key") == key:
        return "done"
    if read_json(part_of(folder) / WORK).get("key") == key:
        return "part"
    return "stale" if folder.exists() else "new"


def remove(folder: Path) -> None:
    """Removes a stage's folder; its seal goes first, so that what a kill leaves behind cannot look finished."""
    for name in (SEAL, WORK):
        (folder / name).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def finish(folder: Path, key: str) -> bool:
    """Moves sealed work to its final name, also when an earlier process died just before. Returns: is it done?"""
    part, old = part_of(folder), _old_of(folder)
    if read_json(part / SEAL).get("key") == key:
        if folder.exists():
            remove(old)
            folder.rename(old)
        part.rename(folder)
    remove(old)
    return read_json(folder / SEAL).get("key") == key


def open_part(folder: Path, key: str, keeps: str = "") -> tuple[Path, float]:
    """The working folder for `key`: kept with its checkpoints if it was begun with the same key, else emptied but for
    files of the pattern `keeps`, which are also fetched from the finished folder of another key.

    Returns the folder and the seconds that earlier, interrupted attempts have spent in it.
    """
    part = part_of(folder)
    work = read_json(part / WORK)
    spent = 0.0
    if work.get("key") == key:
        # A killed process cannot say when it stopped; the last thing that it wrote says so well enough.
        last = max((item.stat().st_mtime for item in part.rglob("*")), default=0.0)
        spent = float(work["spent"]) + max(0.0, last - float(work["begun"]))
    else:
        # In this order: a kill in between leaves a folder that belongs to no key.
        (part / WORK).unlink(missing_ok=True)
        lying = [path for place in (folder, part) for path in place.glob(keeps)] if keeps else []
        outlive = {path.name: path.read_bytes() for path in lying}
        remove(part)
        part.mkdir(parents=True)
        for name, data in outlive.items():
            write_atomically(part / name, data)
    write_json(part / WORK, {"key": key, "begun": time.time(), "spent": spent})
    return part, spent


def seal(folder: Path, key: str, record: Mapping[str, Any]) -> None:
    """Says that everything in the working folder is complete, then gives it its final name."""
    part = part_of(folder)
    write_json(part / SEAL, {"key": key, **record})
    (part / WORK).unlink()
    finish(folder, key)


def versions() -> dict[str, str]:
    """Of whatever a result may depend on."""
    found = {"python": platform.python_version()}
    for package in ("fourdgen", "torch", "numpy", "opencv-python-headless"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


# --------------------------------------------------------------------------------------------------------------
# The run folder.

_OURS = re.compile(r"\d\d-[a-z_]+(-\d+)?(\.part|\.old)?")
RUN, LOG, CRASH, LOCK, RECEIPT = "run.toml", "log.jsonl", "crash.log", "lock", "receipt.json"


def stage_folders(run_folder: Path) -> list[Path]:
    """Finished and unfinished stages, in order."""
    if not run_folder.is_dir():
        return []
    return sorted(path for path in run_folder.iterdir() if path.is_dir() and _OURS.fullmatch(path.name))


def check_run_folder(folder: Path) -> None:
    """Raises FourdgenError when `folder` holds something else than a run: nothing of it may be touched then."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RUN).is_file() and not stage_folders(folder):
        if {path.name for path in folder.iterdir()} <= {LOG, CRASH, LOCK}:
            return
        raise FourdgenError(f"{folder}: not a run folder of fourdgen", "choose another with --run, or an empty one")


def clear_run(folder: Path) -> None:
    """Forgets a run, and leaves alone whatever else lies in its folder."""
    for stage in stage_folders(folder):
        remove(stage)
    for name in (RUN, LOG, CRASH, RECEIPT):
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def made_for_nothing(run_folder: Path, new: bool) -> Iterator[None]:
    """Takes a `new` run folder away again when the run is refused before any stage is finished. Needs its lock."""
    try:
        yield
    except (FourdgenError, OSError):
        if new and not any((stage / SEAL).is_file() for stage in stage_folders(run_folder)):
            clear_run(run_folder)
            (run_folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # never made, or somebody has put something in it
                run_folder.rmdir()
        raise


@contextlib.contextmanager
def lock(run_folder: Path) -> Iterator[None]:
    """Keeps a second process out of the run folder. The system frees the lock when the process dies."""
    with (run_folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "unknown"
            raise FourdgenError(
                f"another fourdgen (process {who}) is working in {run_folder}",
                "wait for it, stop it, or choose another folder with --run",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
