"""Clips whose poses are searched alone: side by side, one process a clip."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fourdgen.data.capture import Capture, stack
from fourdgen.poses import kept
from fourdgen.poses.candidates import SearchSettings
from fourdgen.poses.pictures import mask_boxes
from fourdgen.poses.search import ClipSolution, solve_clip
from fourdgen.report import FourdgenError, Reporter
from fourdgen.side_by_side import one_thread, work_off


def solve_clips(
    capture: Capture, settings: Mapping[str, SearchSettings], folder: Path, threads: int, report: Reporter,
    version: int = 0,
) -> dict[str, ClipSolution]:  # fmt: skip
    """Each clip that `settings` names, alone: in up to `threads` processes, or one after the other; the result is
    the same. Workers say in small files in `folder` how far they are, and keep there what they have found: a search
    of the same clip with the same settings and `version` is not repeated. Other searches that lie there are removed.
    Raises FourdgenError: every mask is empty.
    """
    progress = [folder / f"progress-{i}" for i in range(len(settings))]
    jobs = [
        pickle.dumps((capture, *item, path, folder, version))
        for item, path in zip(settings.items(), progress, strict=True)
    ]
    files = [folder / name.decode() for name in work_off(_solve, jobs, threads, progress, report, "align")]
    for path in set(folder.glob(kept.PATTERN)).difference(files):
        path.unlink()
    found = {}
    for name, path in zip(settings, files, strict=True):
        solution = kept.read(path)
        assert solution is not None, f"{path} has just been written"
        found[name] = solution
    return found


def _solve(job: bytes) -> bytes:
    """What a process does for one clip. Returns the name of the file that holds the solution."""
    capture, name, settings, progress, folder, version = pickle.loads(job)
    with one_thread():
        rgb, mask = (t.numpy() for t in stack(capture, name))
        seconds = capture.clip(name).seconds
        file = kept.name_of(rgb, mask, seconds, settings, version)
        if kept.read(folder / file) is not None:
            return file.encode()
        if np.isnan(mask_boxes(mask)[:, 0]).all():
            raise FourdgenError(
                f"{name}: every mask is empty", "give masks with --masks, or the subject's place with --box"
            )

        def step(done: int, total: int) -> None:
            progress.write_text(str(100 * done // total))

        kept.write(solve_clip(rgb, mask, settings, step, seconds=seconds), folder / file)
        return file.encode()
