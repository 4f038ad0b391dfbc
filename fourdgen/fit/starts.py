"""Several trainings are begun, and the one that fits the filmed frames best goes on (docs/method.md section 12).

What motion a training finds is decided early, while the pictures are small and steps are cheap, and differs by chance:
a second start costs less than a wrong motion.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourdgen.data.capture import Capture
from fourdgen.data.records import ClipTrack, FrameSet
from fourdgen.fit import loop
from fourdgen.fit.loop import TrainConfig
from fourdgen.render.carried import rasterizer_on
from fourdgen.report import Reporter, Silent
from fourdgen.scene.bones import ClipTime
from fourdgen.side_by_side import one_thread, work_off


@dataclass(frozen=True)
class Subject:
    """What all starts train on."""

    capture: Capture
    tracks: Mapping[str, ClipTrack]
    frames: FrameSet
    clip_times: Mapping[str, ClipTime]
    refine_poses: bool


def begin(
    subject: Subject, config: TrainConfig, *, seed: int, device: str, threads: int, checkpoint: Path, report: Reporter
) -> None:
    """Train `config.starts` models as far as `config.choose_at`, with seeds of their own, and leave the best one's
    checkpoint at `checkpoint`, from which `loop.train` goes on.

    On the CPU up to `threads` of them train at once, one thread each. Their own checkpoints lie beside it
    (start0.pt, ...) and are taken up again by a run that was killed.
    """
    paths = [checkpoint.with_name(f"start{i}.pt") for i in range(config.starts)]
    progress = [path.with_suffix(".progress") for path in paths]
    jobs = [
        pickle.dumps((subject, config, seed + i, device, paths[i], progress[i])) for i in range(config.starts)
    ]  # fmt: skip
    work_off(_begin, jobs, threads if device == "cpu" else 1, progress, report, "train")
    fits = [loop.fit_of(path) for path in paths]
    best = max(range(len(fits)), key=fits.__getitem__)
    said = ", ".join(f"{fit:.2f}" for fit in fits)
    report.emit(
        "note", text=f"starts fit the filmed frames with {said} dB: number {best + 1} goes on", psnr=fits, kept=best
    )
    partial = checkpoint.with_suffix(".partial")
    shutil.copyfile(paths[best], partial)
    partial.replace(checkpoint)


def _begin(job: bytes) -> bytes:
    """What a process does for one start."""
    subject, config, seed, device, checkpoint, progress = pickle.loads(job)
    with one_thread():
        loop.train(
            subject.capture, subject.tracks, subject.frames, subject.clip_times, config,
            refine_poses=subject.refine_poses, rasterizer=rasterizer_on(device), seed=seed, checkpoint=checkpoint,
            publish=lambda model: None, report=_Percent(progress, loop.first_step(config, config.choose_at)),
            until=config.choose_at,
        )  # fmt: skip
    return b""


class _Percent(Silent):
    """Writes down how far a start is."""

    def __init__(self, path: Path, total: int) -> None:
        self._path, self._total = path, total

    def emit(self, event: str, **fields: Any) -> None:
        if event == "step":
            self._path.write_text(str(100 * int(fields["step"]) // max(1, self._total)))
