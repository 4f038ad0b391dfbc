"""A finished run leaves a receipt, so that the same command again is answered without importing torch.

The plan knows exactly what is out of date, but it needs the stages for that, and these take seconds to import. The
receipt knows less and is careful: it holds only while nothing at all has been touched, neither inputs nor program nor
result, by sizes and times as `make` looks at them. In any doubt the plan decides.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourdgen import config, disk, weights, workspace
from fourdgen.report import FourdgenError
from fourdgen.workspace import Job

if TYPE_CHECKING:
    from fourdgen.planning import Request

_NO_MATTER = ("command", "fresh", "threads", "options")  # of a request: its result is the same
_GPU = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # whether `auto` may mean something else than last time


def request_key(request: Request, job: Job) -> str | None:
    """One hash of everything that a run may depend on; None where something of it cannot be read."""
    try:
        name = request.pipeline
        recipes = [asdict(config.load_recipe(one)) for one in ([name] if name else ["fast", "quality"])]
        if _leans_on_others(request, recipes):
            return None
        parts = {
            "request": {key: value for key, value in asdict(request).items() if key not in _NO_MATTER},
            "recipes": recipes,
            "job": asdict(job),
            "gpu": [*filter(os.path.exists, _GPU), os.environ.get("CUDA_VISIBLE_DEVICES")],
            "files": [_look(path) for path in (*job.inputs, job.cameras, job.masks) if path is not None],
            "program": _look(Path(__file__).parent),
            "versions": workspace.versions(),
            "weights": [_look(folder) for folder in weights.folders() if folder.is_dir()],
        }
    except (OSError, FourdgenError):
        return None
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _leans_on_others(request: Request, recipes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a generator, a model or a cameras file is named that lies elsewhere: only the plan looks into these."""
    named = {f"regenerate.{key}" for recipe in recipes for key in recipe["settings"].get("regenerate", {})}
    named |= {text.partition("=")[0].strip() for text in request.settings}
    return bool(named & {"regenerate.generator", "regenerate.model", "regenerate.cameras"})


def finished(job: Job, key: str | None) -> Mapping[str, float] | None:
    """Seconds of each stage of a run that is finished and untouched; None where the plan has to decide."""
    record = disk.read_json(job.run_folder / workspace.RECEIPT)
    if key is None or record.get("key") != key:
        return None
    try:
        whole = record["output"] == _look(job.output) and all(
            workspace.state_of(job.run_folder / folder, stage) == "done" for folder, stage in record["stages"].items()
        )
        return {name: float(seconds) for name, seconds in record["seconds"].items()} if whole else None
    except (OSError, KeyError, TypeError, AttributeError):
        return None


def leave(job: Job, key: str | None, stages: Mapping[str, str], seconds: Mapping[str, float]) -> None:
    """Writes the receipt of a run that is done. `stages`: folder -> key."""
    if key is not None:
        record: dict[str, Any] = {"key": key, "output": _look(job.output), "stages": stages, "seconds": seconds}
        disk.write_atomically(job.run_folder / workspace.RECEIPT, json.dumps(record, indent=1).encode())


def _look(path: Path) -> list[list[Any]]:
    """Name, size and time of a file, or of every file in a folder (but compiled Python, which comes and goes)."""
    return [
        [str(item), (stat := item.stat()).st_size, stat.st_mtime_ns]
        for item in (sorted(_files(path)) if path.is_dir() else [path])
    ]


def _files(folder: Path) -> Iterator[Path]:
    for item in folder.rglob("*"):
        if item.is_file() and "__pycache__" not in item.parts:
            yield item
