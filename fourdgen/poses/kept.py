"""Finished searches, kept beside the stage's other files, so that a run that was killed, or one that only joins its
clips in another way, does not search again.

A file's name says what it depends on: the clip's own pictures and times and the settings of its own search. How the
clips are joined (reference, synchronisation, the other clips) does not count.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fourdgen import native
from fourdgen.disk import write_atomically
from fourdgen.poses.accept import Verdict
from fourdgen.poses.candidates import SearchSettings
from fourdgen.poses.search import ClipSolution

PATTERN = "solution-*.pt"
# The nodes serve the search alone, and a verdict is a record of its own.
_PARTS = [f.name for f in fields(ClipSolution) if f.name not in ("nodes", "verdict")]


def name_of(
    rgb: UInt8[np.ndarray, "t h w 3"], mask: UInt8[np.ndarray, "t h w"], seconds: Float[Tensor, "t"],
    settings: SearchSettings, version: int,
) -> str:  # fmt: skip
    """The file of a clip's search. `version`: of the stage, which grows whenever a search would end differently."""
    digest = hashlib.sha256()
    kernel = native.available()  # its sums are rounded differently
    digest.update(_plain([version, kernel, list(rgb.shape), asdict(settings)]))
    for array in (rgb, mask, seconds.double().numpy()):
        digest.update(np.ascontiguousarray(array).tobytes())
    return PATTERN.replace("*", digest.hexdigest()[:32])


def _plain(parts: list[Any]) -> bytes:
    return json.dumps(parts, sort_keys=True, default=Tensor.tolist).encode()  # a suggested path is in tensors


def write(solution: ClipSolution, path: Path) -> None:
    """Keeps a solution; all of it or nothing, whenever the process dies."""
    parts = {name: getattr(solution, name) for name in _PARTS}
    file = io.BytesIO()
    torch.save({**parts, "verdict": asdict(solution.verdict)}, file)
    write_atomically(path, file.getvalue())


def read(path: Path) -> ClipSolution | None:
    """The solution that was kept there; None where there is none that can be read."""
    try:
        parts = torch.load(path, weights_only=True)  # which runs no code, whoever wrote the file
        return ClipSolution(**{**parts, "verdict": Verdict(**parts["verdict"])})
    except Exception:  # a damaged file is as good as none, and torch has no one error for that
        return None
