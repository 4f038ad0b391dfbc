"""Clips whose poses are searched alone: side by side, one process a clip."""

from __future__ import annotations

import concurrent.futures as futures
import multiprocessing
import os
import pickle
import threading
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import torch

from fourdgen import native
from fourdgen.data.capture import Capture, stack
from fourdgen.poses.candidates import SearchSettings
from fourdgen.poses.pictures import mask_boxes
from fourdgen.poses.search import ClipSolution, solve_clip
from fourdgen.report import FourdgenError, Reporter


def solve_clips(
    capture: Capture, settings: Mapping[str, SearchSettings], folder: Path, threads: int, report: Reporter
) -> dict[str, ClipSolution]:
    """Each clip that `settings` names, alone: in up to `threads` processes, or one after the other; the result is
    the same. Workers say in small files in `folder` how far they are. Raises FourdgenError: every mask is empty.
    """
    progress = [folder / f"progress-{i}" for i in range(len(settings))]
    jobs = [pickle.dumps((capture, *item, str(path))) for item, path in zip(settings.items(), progress, strict=True)]
    workers = min(len(jobs), threads)
    if workers > 1:
        try:
            done = _side_by_side(jobs, workers, progress, report)
        except BrokenProcessPool:  # the calling program cannot be started a second time (no __main__ guard, or stdin)
            done = [_solve(job) for job in jobs]
    else:
        done = []
        for i, job in enumerate(jobs):
            done.append(_solve(job))
            report.emit("step", stage="align", step=i + 1, total=len(jobs))
    for path in progress:
        path.unlink(missing_ok=True)
    return dict(zip(settings, (pickle.loads(result) for result in done), strict=True))


def _side_by_side(jobs: list[bytes], workers: int, progress: list[Path], report: Reporter) -> list[bytes]:
    with futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _die_with_parent) as pool:
        running = [pool.submit(_solve, job) for job in jobs]
        try:
            while futures.wait(running, timeout=1.0).not_done:
                percent = [_percent(path) for path in progress]
                report.emit("step", stage="align", step=sum(percent), total=100 * len(jobs))
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()  # nobody will read what they find
            raise
        return [job.result() for job in running]


def _die_with_parent() -> None:
    """A run that was killed leaves no workers behind: each watches the process that started it."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _percent(path: Path) -> int:
    try:
        return int(path.read_text() or 0)
    except (OSError, ValueError):
        return 0


def _solve(job: bytes) -> bytes:
    """What a process does for one clip. One thread, wherever it runs: sums must not depend on who calls."""
    capture, name, settings, progress = pickle.loads(job)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    native.set_threads(1)
    torch.set_flush_denormal(True)
    try:
        rgb, mask = (t.numpy() for t in stack(capture, name))
        if np.isnan(mask_boxes(mask)[:, 0]).all():
            raise FourdgenError(
                f"{name}: every mask is empty", "give masks with --masks, or the subject's place with --box"
            )

        def step(done: int, total: int) -> None:
            Path(progress).write_text(str(100 * done // total))

        return pickle.dumps(solve_clip(rgb, mask, settings, step))
    finally:
        torch.set_num_threads(threads)
        native.set_threads(None)
        torch.set_flush_denormal(False)
