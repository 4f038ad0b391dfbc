"""What every verb of the command line shares: a reporter, and words and an exit code for whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from fourdgen.report import ConsoleReporter, FourdgenError

OK, BUG, USER, INTERRUPTED = 0, 1, 2, 130  # exit codes


@contextlib.contextmanager
def speaking(
    json: bool,
    verb: str,
    run_folder: Path | None = None,
    output: Path | None = None,
    answers: bool = False,
    closing: bool = True,
) -> Iterator[ConsoleReporter]:
    """Gives a verb its reporter and turns whatever it raises into words and an exit code.

    answers: stdout is kept for the one answer that the verb was asked for, so that a script can read it.
    closing: whether the verb ends with the line of time, memory and places. A refusal before any work never does.
    """
    report = ConsoleReporter(json=json, stream=sys.stderr if answers else None)
    begun = time.time()
    code, outcome = OK, f"{verb} done"
    try:
        yield report
    except FourdgenError as error:
        code, outcome = USER, f"{verb} stopped"
        report.error(error.message, error.hint)
        closing = closing and report.worked
    except KeyboardInterrupt:
        code, outcome = INTERRUPTED, f"{verb} interrupted"
        report.error("interrupted", "run the same command to go on" if run_folder else "")
    except BrokenPipeError:
        raise  # the reader of our output went away: typer knows what to do
    except Exception as error:
        code, outcome = BUG, f"{verb} failed"
        log = report.places["log"] = _write_crash(run_folder)
        report.error(
            f"this is a mistake in fourdgen: {type(error).__name__}: {_first_line(error)}",
            f"the whole story is in {log}; please report it",
        )
    if output is not None and (code == OK or _changed_since(output, begun)):
        report.places["scene"] = output  # else it is that of an earlier run
    if run_folder is not None:
        report.places["run"] = run_folder
    if closing:
        report.close(outcome)
    if code != OK:
        raise SystemExit(code)


def _changed_since(path: Path, begun: float) -> bool:
    try:
        return path.stat().st_mtime >= begun - 2.0  # some file systems count in steps of two seconds
    except OSError:
        return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _write_crash(run_folder: Path | None) -> Path:
    """The traceback of the exception that is being handled, appended to the run's log of crashes."""
    text = f"$ {' '.join(sys.argv)}\n{traceback.format_exc()}\n"
    places = [run_folder / "crash.log"] if run_folder is not None and run_folder.is_dir() else []
    for path in (*places, Path(tempfile.gettempdir()) / f"fourdgen-crash-{os.getpid()}.log"):
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            continue  # A full disk may be why we crashed; the next place may still take it.
        return path
    return Path(os.devnull)
