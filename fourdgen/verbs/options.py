"""Arguments and options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads. [default: OMP_NUM_THREADS, else all cores]", show_default=False)
]
SceneFile = Annotated[
    Path, typer.Argument(metavar="SCENE", help="A scene.ply, or a compressed .sog.", show_default=False)
]
