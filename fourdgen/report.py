"""One voice: stages emit events, and this module alone prints them. Errors that the user can fix are FourdgenError."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol


class FourdgenError(Exception):
    """Something that the user can put right: `message` is one sentence, `hint` says what to do. Exit code 2."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.parts: tuple[FourdgenError, ...] = (self,)  # several where it says all that is wrong at once


def absent(path: Path | str, hint: str = "check the path") -> FourdgenError:
    """The error for a path that is not there: one wording, whoever notices."""
    return FourdgenError(f"{path}: no such file or folder", hint)


def all_at_once(errors: Sequence[FourdgenError]) -> FourdgenError:
    """One error that says everything `errors` (at least one) say, so that nobody repairs a command five times."""
    parts = [part for error in errors for part in error.parts]
    if len(parts) == 1:
        return parts[0]
    lines = [f"{len(parts)} things are wrong:"]
    for part in parts:
        lines.append(f"  - {part.message}" + (f" ({part.hint})" if part.hint else ""))
    together = FourdgenError("\n".join(lines))
    together.parts = tuple(parts)
    return together


class Reporter(Protocol):
    """Where a stage sends what happens.

    Events in use: "stage" (stage, state: started, done or skipped, seconds, peak_mb, check: its picture), "step"
    (stage, step, total, loss, psnr, surfels), "note" (text), "fact" (name, text: for the closing line, also of a run
    that skips the stage that found it; bare: the text alone is said). Any further fields go to log.jsonl unchanged, so
    they must be plain numbers, strings, lists or dicts.
    """

    def emit(self, event: str, **fields: Any) -> None: ...

    def warn(self, message: str) -> None: ...


class Silent:
    """The reporter of a caller who does not want to hear anything."""

    def emit(self, event: str, **fields: Any) -> None:
        pass

    def warn(self, message: str) -> None:
        pass


class EventLog:
    """Appends every event to a file of JSON lines and hands it on to another reporter.

    Each line is written at once: what a killed run had to say must be there.
    """

    def __init__(self, path: Path, onward: Reporter) -> None:
        self.onward = onward
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def emit(self, event: str, **fields: Any) -> None:
        self._file.write(json_line(event, fields) + "\n")
        self.onward.emit(event, **fields)

    def warn(self, message: str) -> None:
        self._file.write(json_line("warning", {"text": message}) + "\n")
        self.onward.warn(message)

    def close(self) -> None:
        self._file.close()


def json_line(event: str, fields: Mapping[str, Any]) -> str:
    return json.dumps({"time": round(time.time(), 3), "event": event, **fields}, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """JSON for what stages like to emit: paths, and the scalars and arrays of numpy and torch."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"an event field of type {type(value).__name__} cannot be logged")


# --------------------------------------------------------------------------------------------------------------
# Memory, time and numbers, as people read them.


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, or since `reset_peak_memory`, in MB."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # Not Linux: the portable figure below knows no reset.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def reset_peak_memory() -> None:
    """Starts the peak anew where the system allows it (Linux), so that each stage gets a figure of its own."""
    # Elsewhere the figure is the peak of the whole process, which is still an upper bound.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(mb: float) -> str:
    return f"{mb / 1024:.1f} GB" if mb >= 1024 else f"{mb:.0f} MB"


def bytes_read(size: float) -> str:
    """The size of a file: `950 B`, `59 kB`, `1.2 MB` (powers of ten, as file managers count)."""
    if size < 1000:
        return f"{size:.0f} B"
    return f"{size / 1e3:.0f} kB" if size < 999.5e3 else f"{size / 1e6:.1f} MB"


def count(number: float) -> str:
    """`950`, `12.3k`, `1.2M`."""
    if number < 1000:
        return f"{number:.0f}"
    return f"{number / 1000:.1f}k" if number < 1e6 else f"{number / 1e6:.1f}M"


def figures(fields: Mapping[str, Any]) -> str:
    """The figures of a "step" event in reading order: `loss 0.0412  PSNR 27.31  surfels 4.8k`."""
    parts = []
    if fields.get("loss") is not None:
        parts.append(f"loss {float(fields['loss']):.4f}")
    if fields.get("psnr") is not None:
        parts.append(f"PSNR {float(fields['psnr']):.2f}")
    if fields.get("surfels") is not None:
        parts.append(f"surfels {count(float(fields['surfels']))}")
    return "  ".join(parts)


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Left-aligned columns, two blanks apart."""
    lines = [tuple(head), *map(tuple, rows)] if head else list(map(tuple, rows))
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(max(map(len, lines), default=0))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


# --------------------------------------------------------------------------------------------------------------
# The console.


class ConsoleReporter:
    """Prints events: a live display on a terminal, plain lines elsewhere, or one JSON object a line.

    Progress goes to stderr and results go to stdout, so that `fourdgen info scene.ply > file` holds the answer only.
    With `json` events are JSON lines on stdout, or on `stream` where stdout is kept for the answer.
    """

    def __init__(self, json: bool = False, stream: IO[str] | None = None, interval: float = 5.0) -> None:
        self._json = json
        self._stream = stream or (sys.stdout if json else sys.stderr)
        self._interval = interval  # seconds between two plain lines of one stage
        self.worked = False  # whether anything was begun: a refusal before that needs no closing line
        self.places: dict[str, Path] = {}  # where things are, for the closing line: name -> path
        self._facts: dict[str, str] = {}  # name -> what is said of it
        self._spoken: dict[str, str] = {}  # the same as the closing line says it
        self._begun = time.monotonic()
        self._peak_mb = 0.0
        self._pace: dict[str, tuple[float, int]] = {}  # stage -> (when its first step came, which step that was)
        self._last_line: dict[str, float] = {}
        self._live = None if json or not _is_terminal(self._stream) else _Live(self._stream)

    def emit(self, event: str, **fields: Any) -> None:
        self.worked = True
        if event != "step":
            self._peak_mb = max(self._peak_mb, peak_memory_mb(), float(fields.get("peak_mb") or 0.0))
        if event == "fact":
            name, text = str(fields["name"]), str(fields["text"])
            self._facts[name], self._spoken[name] = text, text if fields.get("bare") else f"{name} {text}"
        if self._json:
            self._print(json_line(event, fields))
        elif event == "step":
            self._step(fields)
        elif event == "stage":
            self._stage(fields)
        elif event == "note":
            self._print(str(fields["text"]))

    def warn(self, message: str) -> None:
        if self._json:
            self._print(json_line("warning", {"text": message}))
        else:
            self._print(f"warning: {message}")

    def error(self, message: str, hint: str = "") -> None:
        if self._json:
            self._print(json_line("error", {"text": message, "hint": hint}))
        else:
            self._print(f"error: {message}" + (f"\n  {hint}" if hint else ""))

    def result(self, text: str, data: Mapping[str, Any] | None = None) -> None:
        """An answer that was asked for. With `json`, `data` (or the text where there is none) as one JSON object."""
        if self._live:
            self._live.stop()
        if self._json:
            print(json.dumps(data if data is not None else {"text": text}, default=_plain), flush=True)
        else:
            print(text, flush=True)

    def close(self, outcome: str) -> None:
        """The last line of every run: `outcome`, time, peak memory, facts, and those of `places` that exist."""
        if self._live:
            self._live.stop()
        seconds = time.monotonic() - self._begun
        peak = max(self._peak_mb, peak_memory_mb())
        places = {name: place for name, place in self.places.items() if place.exists()}
        if self._json:
            ended = {"outcome": outcome, "seconds": round(seconds, 2), "peak_mb": round(peak), **self._facts, **places}
            self._print(json_line("end", ended))
            return
        parts = [f"{outcome} in {duration(seconds)}", f"peak memory {memory(peak)}"]
        parts += self._spoken.values()
        parts += [f"{name} {place}" for name, place in places.items()]
        self._print(" | ".join(parts))

    def _stage(self, fields: Mapping[str, Any]) -> None:
        stage, state = str(fields["stage"]), str(fields.get("state", "started"))
        seconds = fields.get("seconds")
        if self._live and state == "started":
            self._live.begin(stage)
            return
        if self._live:
            self._live.end(stage)
        if state == "done":
            extra = f", peak {memory(float(fields['peak_mb']))}" if fields.get("peak_mb") else ""
            extra += f", see {fields['check']}" if fields.get("check") else ""
            self._print(f"{stage}: done in {duration(float(seconds or 0.0))}{extra}")
        elif state == "skipped":
            self._print(f"{stage}: already done" + (f" ({duration(float(seconds))})" if seconds is not None else ""))
        else:
            self._print(f"{stage}: {state}")

    def _step(self, fields: Mapping[str, Any]) -> None:
        stage, step, total = str(fields["stage"]), int(fields["step"]), int(fields.get("total") or 0)
        now = time.monotonic()
        first = self._pace.setdefault(stage, (now, step))
        left = None
        if total and step > first[1]:
            left = (now - first[0]) / (step - first[1]) * (total - step)
        interval = 0.2 if self._live else self._interval  # Training takes thousands of steps: most need no line.
        if step < total and now - self._last_line.get(stage, -1e9) < interval:
            return
        self._last_line[stage] = now
        self._peak_mb = max(self._peak_mb, peak_memory_mb())
        if self._live:
            # One line has to hold it all: where there is a PSNR, nobody needs the loss.
            said = figures({**fields, "loss": None} if fields.get("psnr") is not None else fields)
            self._live.step(stage, step, total, said, left, self._peak_mb)
            return
        said = figures(fields)
        parts = [f"{stage}: step {step}" + (f" of {total}" if total else "")]
        parts += [said] if said else []
        parts += [f"{duration(left)} left"] if left is not None and step < total else []
        parts += [f"peak {memory(self._peak_mb)}"]
        self._print("  ".join(parts))

    def _print(self, text: str) -> None:
        if self._live:
            self._live.say(text)
        else:
            try:
                print(text, file=self._stream, flush=True)
            except BrokenPipeError:  # who listened went away (`| head`); a run has more to do than to talk
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def _is_terminal(stream: IO[str]) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


class _Live:
    """The live display: one bar for the stage that runs, finished lines scroll by above it."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[where]}", markup=False),
            TextColumn("{task.fields[said]}", markup=False),
            console=self._console,
            refresh_per_second=4,
            transient=True,
        )
        self._tasks: dict[str, Any] = {}
        self._running = False

    def begin(self, stage: str) -> None:
        if not self._running:
            self._progress.start()
            self._running = True
        self._tasks[stage] = self._progress.add_task(stage, total=None, where="", said="")

    def step(self, stage: str, step: int, total: int, said: str, left: float | None, peak_mb: float) -> None:
        if stage not in self._tasks:
            self.begin(stage)
        parts = ([said] if said else []) + ([f"{duration(left)} left"] if left is not None else [])
        parts.append(f"peak {memory(peak_mb)}")
        where = f"{step}/{total}" if total else str(step)
        self._progress.update(
            self._tasks[stage],
            completed=step,
            total=total or None,
            where=where,
            said="  ".join(parts),
            refresh=step == total,
        )

    def end(self, stage: str) -> None:
        task = self._tasks.pop(stage, None)
        if task is not None:
            self._progress.remove_task(task)

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def stop(self) -> None:
        if self._running:
            self._progress.stop()
            self._running = False
