"""Jobs side by side or one after the other: the same results, and the same word on how far they are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fourdgen import native, side_by_side
from fourdgen.report import Silent


class Steps(Silent):
    """Keeps the steps that are told."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def emit(self, event: str, **fields: Any) -> None:
        if event == "step":
            assert fields["stage"] == "align"
            self.heard.append((fields["step"], fields["total"]))


def slowly(job: bytes) -> bytes:
    """Says that it is 40 percent done, and waits longer than two looks take."""
    path, number = job.decode().rsplit("|", 1)
    Path(path).write_text("40")
    time.sleep(0.3)
    Path(path).write_text("100")
    return number.encode()


def fail(job: bytes) -> bytes:
    raise ValueError("no good")


@pytest.mark.parametrize(("count", "workers"), [(1, 2), (2, 1)], ids=["one job", "one worker"])
def test_how_far_the_jobs_are_is_told_while_they_run(
    count: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "LOOK", 0.1)
    progress, steps = [tmp_path / str(i) for i in range(count)], Steps()
    jobs = [f"{path}|{i}".encode() for i, path in enumerate(progress)]
    assert side_by_side.work_off(slowly, jobs, workers, progress, steps, "align") == [b"0", b"1"][:count]
    assert {total for _, total in steps.heard} == {100 * count}
    told = [step for step, _ in steps.heard]
    assert told == sorted(told) and told[-1] == 100 * count
    assert any(0 < step < 100 for step in told)
    assert not list(tmp_path.iterdir())


def test_a_job_that_fails_is_not_told_as_done(tmp_path: Path) -> None:
    steps = Steps()
    with pytest.raises(ValueError, match="no good"):
        side_by_side.work_off(fail, [b""], 1, [tmp_path / "0"], steps, "align")
    assert steps.heard == []


def test_a_job_leaves_the_threads_as_they_were() -> None:
    native.set_threads(3)
    try:
        before = torch.get_num_threads()
        with side_by_side.one_thread():
            assert native.threads() == 1 and torch.get_num_threads() == 1
        assert native.threads() == 3 and torch.get_num_threads() == before
    finally:
        native.set_threads(None)
