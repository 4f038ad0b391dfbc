"""Verbs that answer and change nothing (`doctor --fetch` gets weights): a run, an asset, this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourdgen.verbs.options import Json, SceneFile
from fourdgen.verbs.speaking import speaking


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as scene.run.", show_default=False)],
    json: Json = False,
) -> None:
    """What of a run is done, and how long it took.

    \b
    Example:
      fourdgen status scene.run
    """
    from fourdgen import account

    with speaking(json, "status", answers=True, closing=False) as report:
        rows = account.status(run)
        report.result(account.status_text(run, rows), {"run": str(run), "stages": rows})


def info(scene: SceneFile, json: Json = False) -> None:
    """What is inside a scene.ply.

    \b
    Example:
      fourdgen info scene.ply
    """
    from fourdgen import account

    with speaking(json, "info", answers=True, closing=False) as report:
        facts = account.scene_facts(scene, report)
        report.result(account.scene_text(facts), facts)


def doctor(
    fetch: Annotated[bool, typer.Option("--fetch", help="Get the small pretrained weights that are missing.")] = False,
    weights: Annotated[
        list[str] | None, typer.Option("--weights", metavar="NAME", help="Get these weights, too: migan, u2net.")
    ] = None,
    json: Json = False,
) -> None:
    """What works on this machine; what to do about the rest.

    \b
    Example:
      fourdgen doctor
      fourdgen doctor --fetch
      fourdgen doctor --weights migan
    """
    from fourdgen import doctor as doctors

    with speaking(json, "doctor", answers=True, closing=False) as report:
        findings = doctors.examine(fetch=fetch, names=weights or (), report=report)
        report.result(doctors.text(findings), {"findings": [vars(finding) for finding in findings]})
