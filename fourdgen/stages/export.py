"""Stage export: the trained asset as scene.ply."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fourdgen.scene import files
from fourdgen.scene.scene4d import Scene4D
from fourdgen.workspace import Context, Stage

SCENE = "scene.ply"


@dataclass(frozen=True)
class ExportConfig:
    """Stage export has nothing to set."""


def run(ctx: Context, config: ExportConfig, scene: Scene4D) -> Scene4D:
    return scene


def save(scene: Scene4D, folder: Path) -> None:
    files.write(folder / SCENE, scene)


def load(folder: Path) -> Scene4D:
    return files.read(folder / SCENE)


STAGE = Stage(name="export", needs=("train",), config=ExportConfig, version=2, run=run, save=save, load=load)
