"""The command line. Verbs parse, call the package and exit; whatever they do can be done from Python as well.

Imports stand inside the verbs, so that `fourdgen --help` answers at once; those that bring torch stand after what
can be checked without it, so that a wrong path or option is refused at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from fourdgen.report import ConsoleReporter
from fourdgen.verbs.asking import doctor, info, status
from fourdgen.verbs.making import reconstruct, regenerate
from fourdgen.verbs.using import evaluate, export, render, view

app = typer.Typer(
    name="fourdgen",
    help="Videos of one moving subject in, one 4D asset of Gaussian surfels out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    # Threads that have no work sleep soon instead of turning round, or two of them starve on a busy machine: very soon
    # where many short pieces of work follow each other. It must be said before torch loads OpenMP (docs/performance.md,
    # "Threads").
    os.environ.setdefault("GOMP_SPINCOUNT", "20000" if sys.argv[1:2] == ["reconstruct"] else "1000")
    app(prog_name="fourdgen")


def _version(wanted: bool) -> None:
    if wanted:
        import fourdgen

        ConsoleReporter().result(f"fourdgen {fourdgen.__version__}")
        raise typer.Exit()


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# In the order in which `fourdgen --help` lists them.
VERBS: dict[str, Callable[..., None]] = {
    "reconstruct": reconstruct, "render": render, "export": export, "view": view, "eval": evaluate,
    "regenerate": regenerate, "status": status, "info": info, "doctor": doctor,
}  # fmt: skip
for name, verb in VERBS.items():
    app.command(name)(verb)


if __name__ == "__main__":
    main()
