"""Writes the scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fourdgen.workspace import Context, Stage
from tests.tiny import fate


@dataclass(frozen=True)
class Config:
    head: str = "ply"


def run(ctx: Context, config: Config, value: str) -> str:
    fate.meet("export:begin")
    return f"{config.head} {value}"


def save(scene: str, folder: Path) -> None:
    (folder / "scene.ply").write_text(scene)


def load(folder: Path) -> str:
    return (folder / "scene.ply").read_text()


STAGE = Stage("export", ("second",), Config, 1, run, save, load)
