"""Jobs that do not know of each other: side by side, one process each."""

from __future__ import annotations

import concurrent.futures as futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from fourdgen import native
from fourdgen.report import Reporter

LOOK = 1.0  # seconds between two looks at how far the jobs are


def work_off(
    work: Callable[[bytes], bytes], jobs: Sequence[bytes], workers: int, progress: Sequence[Path], report: Reporter,
    stage: str,
) -> list[bytes]:  # fmt: skip
    """`work(job)` of every job, in up to `workers` processes or one after the other; the result is the same.

    `work` must be a function of a module. It writes to the file of `progress` that is its job's how far it is, in
    percent, and `report` hears it as the "step" events of `stage`; the files are gone afterwards.
    """
    try:
        if min(len(jobs), workers) > 1:
            try:
                return _side_by_side(work, jobs, min(len(jobs), workers), progress, report, stage)
            except BrokenProcessPool:  # the calling program cannot be started again (no __main__ guard, or stdin)
                pass
        with _watched(progress, report, stage):
            return [work(job) for job in jobs]
    finally:
        for path in progress:
            path.unlink(missing_ok=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, wherever a job runs: sums must not depend on who calls."""
    before = native.threads()
    native.set_threads(1)
    torch.set_flush_denormal(True)
    try:
        with same_sums():
            yield
    finally:
        native.set_threads(before)
        torch.set_flush_denormal(False)


@contextmanager
def same_sums() -> Iterator[None]:
    """One thread of torch's, whose sums depend on how many there are; those of the kernels, which do not, stay."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _side_by_side(
    work: Callable[[bytes], bytes], jobs: Sequence[bytes], workers: int, progress: Sequence[Path], report: Reporter,
    stage: str,
) -> list[bytes]:  # fmt: skip
    with futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _die_with_parent) as pool:
        running = [pool.submit(work, job) for job in jobs]
        try:
            with _watched(progress, report, stage):
                futures.wait(running)
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()  # nobody will read what they find
            raise
        return [job.result() for job in running]


@contextmanager
def _watched(progress: Sequence[Path], report: Reporter, stage: str) -> Iterator[None]:
    """Tells how far all jobs are while the block runs. A thread looks at the files, since a job that runs in this
    process is as busy as one that runs elsewhere; nobody else speaks to `report` meanwhile."""
    over = threading.Event()
    seen = [0] * len(progress)  # a file that is being written just now looks empty

    def tell(percent: int) -> None:
        report.emit("step", stage=stage, step=percent, total=100 * len(progress))

    def watch() -> None:
        with suppress(OSError):  # a full disk stops the run when the stage itself says something next
            while not over.wait(LOOK):
                seen[:] = map(max, seen, map(_percent, progress))
                tell(sum(seen))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    tell(100 * len(progress))


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
