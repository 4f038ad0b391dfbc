"""What the console says: plain lines, JSON lines, the live display, and the closing line."""

from __future__ import annotations

import io
import json
import mmap
import os
from pathlib import Path

import pytest

from fourdgen import report
from fourdgen.report import ConsoleReporter, EventLog, FourdgenError, Silent


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_plain_lines_without_a_terminal() -> None:
    stream = io.StringIO()
    console = ConsoleReporter(stream=stream, interval=1e9)
    console.emit("stage", stage="train", state="started")
    for step in range(1, 101):
        console.emit("step", stage="train", step=step, total=100, loss=0.5, psnr=27.125, surfels=4800)
    console.emit("stage", stage="train", state="done", seconds=75.0, peak_mb=2048.0, check="run/check.png")
    console.emit("stage", stage="export", state="skipped", seconds=2.0)
    console.warn("careful")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "train: started"
    # The first and the last step have a line each; between them the interval has not passed.
    assert lines[1].startswith("train: step 1 of 100  loss 0.5000  PSNR 27.12  surfels 4.8k  peak ")
    assert lines[2].startswith("train: step 100 of 100")
    assert lines[3:] == [
        "train: done in 1 min 15 s, peak 2.0 GB, see run/check.png",
        "export: already done (2.0 s)",
        "warning: careful",
    ]
    assert "\x1b" not in stream.getvalue()


def test_time_left_follows_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(report.time, "monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    console = ConsoleReporter(stream=stream, interval=0)
    console.emit("step", stage="train", step=50, total=100)  # goes on from a checkpoint: no pace yet
    console.emit("step", stage="train", step=60, total=100)  # ten steps in ten seconds
    first, second = stream.getvalue().splitlines()
    assert "left" not in first
    assert "40.0 s left" in second


def test_json_events_are_one_object_a_line() -> None:
    stream = io.StringIO()
    console = ConsoleReporter(json=True, stream=stream)
    console.emit("step", stage="train", step=1, total=2, loss=0.5)
    console.warn("careful")
    console.error("wrong", "do this")
    console.places["scene"] = Path(__file__)
    console.close("stopped")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["step", "warning", "error", "end"]
    assert (events[0]["step"], events[0]["loss"]) == (1, 0.5)
    assert (events[2]["text"], events[2]["hint"]) == ("wrong", "do this")
    assert (events[3]["outcome"], events[3]["scene"]) == ("stopped", __file__)
    assert events[3]["peak_mb"] > 1


@pytest.mark.parametrize("outcome", ["reconstruct done", "reconstruct failed"])
def test_the_closing_line_is_the_same_for_every_outcome(outcome: str, tmp_path: Path) -> None:
    stream = io.StringIO()
    console = ConsoleReporter(stream=stream)
    console.places.update({"scene": tmp_path / "never written", "run": tmp_path})
    console.close(outcome)
    words = stream.getvalue().strip().split(" | ")
    assert words[0].startswith(f"{outcome} in 0.")
    assert words[1].startswith("peak memory ")
    assert words[2:] == [f"run {tmp_path}"]


def test_the_live_display_shows_figures_and_leaves_lines_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    console = ConsoleReporter(stream=stream)
    console.emit("stage", stage="train", state="started")
    console.emit("step", stage="train", step=1, total=2, psnr=20.0)
    console.emit("step", stage="train", step=2, total=2, psnr=30.0, surfels=5000)
    console.emit("stage", stage="train", state="done", seconds=1.0)
    console.close("done")
    shown = stream.getvalue()
    assert "PSNR 30.00  surfels 5.0k" in shown
    assert "train: done in 1.0 s" in shown
    assert shown.rstrip().splitlines()[-1].startswith("done in ")


def test_the_log_keeps_every_event_and_hands_it_on(tmp_path: Path) -> None:
    import torch

    stream = io.StringIO()
    log = EventLog(tmp_path / "log.jsonl", ConsoleReporter(stream=stream))
    log.emit("note", text="hello", psnr=torch.tensor(27.5), where=tmp_path)
    log.warn("careful")
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]  # before it is closed
    assert [event["event"] for event in events] == ["note", "warning"]
    assert (events[0]["psnr"], events[0]["where"]) == (27.5, str(tmp_path))
    assert stream.getvalue() == "hello\nwarning: careful\n"
    log.close()


def test_silent_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    Silent().emit("note", text="x")
    Silent().warn("y")
    assert capsys.readouterr() == ("", "")


def test_results_go_to_stdout_and_progress_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console = ConsoleReporter()
    console.emit("note", text="working")
    console.result("the answer")
    assert capsys.readouterr() == ("the answer\n", "working\n")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7620, "2 h 07 min")],
)
def test_duration(seconds: float, said: str) -> None:
    assert report.duration(seconds) == said


def test_numbers_as_people_read_them() -> None:
    assert [report.count(n) for n in (950, 12_340, 1_200_000)] == ["950", "12.3k", "1.2M"]
    assert [report.memory(n) for n in (312.4, 2048)] == ["312 MB", "2.0 GB"]
    assert report.figures({"loss": 0.1, "psnr": None}) == "loss 0.1000"


def test_table_aligns_columns() -> None:
    assert report.table([("a", "bb"), ("ccc", "d")], ("x", "y")) == "x    y\na    bb\nccc  d"


def test_several_errors_become_one() -> None:
    one, two = FourdgenError("first", "hint"), FourdgenError("second")
    assert report.all_at_once([one]) is one
    both = report.all_at_once([one, two])
    assert both.message == "2 things are wrong:\n  - first (hint)\n  - second"
    # Errors that are several already are counted one by one.
    assert report.all_at_once([both, FourdgenError("third")]).message.splitlines()[0] == "3 things are wrong:"


def test_peak_memory_starts_anew() -> None:
    # Not from the heap: what earlier tests left free there would be handed out, and stay resident afterwards.
    block = mmap.mmap(-1, 200 << 20)
    block[::4096] = b"x" * len(block[::4096])
    high = report.peak_memory_mb()
    block.close()
    report.reset_peak_memory()
    assert high > 200
    if Path("/proc/self/clear_refs").exists():
        assert report.peak_memory_mb() < high - 100


def test_a_listener_who_goes_away_does_not_end_the_run() -> None:
    """As with `fourdgen reconstruct ... | head`: what is said afterwards is lost, and nothing else."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        speaker = ConsoleReporter(stream=stream)
        speaker.emit("note", text="heard")
        os.close(read)
        speaker.emit("note", text="lost")
        speaker.warn("lost as well")
        speaker.close("done")
