"""Clips whose poses are searched alone: side by side, one process a clip."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fourdgen.data.capture import Capture, stack
from fourdgen.poses.candidates import SearchSettings
from fourdgen.poses.pictures import mask_boxes
from fourdgen.poses.search import ClipSolution, solve_clip
from fourdgen.report import FourdgenError, Reporter
from fourdgen.side_by_side import one_thread, work_off


def solve_clips(
    capture: Capture, settings: Mapping[str, SearchSettings], folder: Path, threads: int, report: Reporter
) -> dict[str, ClipSolution]:
    """Each clip that `settings` names, alone: in up to `threads` processes, or one after the other; the result is
    the same. Workers say in small files in `folder` how far they are. Raises FourdgenError: every mask is empty.
    """
    progress = [folder / f"progress-{i}" for i in range(len(settings))]
    jobs = [pickle.dumps((capture, *item, str(path))) for item, path in zip(settings.items(), progress, strict=True)]
    done = work_off(_solve, jobs, threads, progress, report, "align")
    return dict(zip(settings, (pickle.loads(result) for result in done), strict=True))


def _solve(job: bytes) -> bytes:
    """What a process does for one clip."""
    capture, name, settings, progress = pickle.loads(job)
    with one_thread():
        rgb, mask = (t.numpy() for t in stack(capture, name))
        if np.isnan(mask_boxes(mask)[:, 0]).all():
            raise FourdgenError(
                f"{name}: every mask is empty", "give masks with --masks, or the subject's place with --box"
            )

        def step(done: int, total: int) -> None:
            Path(progress).write_text(str(100 * done // total))

        return pickle.dumps(solve_clip(rgb, mask, settings, step, seconds=capture.clip(name).seconds))
