"""Reads the inputs. It draws a random number that nobody needs and saves less than it holds: a later stage must not
notice whether this one ran in the same process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from fourdgen.report import FourdgenError
from fourdgen.workspace import Context, Job, Stage
from tests.tiny import fate


@dataclass(frozen=True)
class Config:
    repeat: int = 1


def check(job: Job, config: Config) -> None:
    if config.repeat < 1:
        raise FourdgenError("first.repeat: at least 1 is needed")


def run(ctx: Context, config: Config) -> str:
    fate.meet("first:begin")
    torch.rand(1)
    ctx.report.emit("fact", name="inputs", text=f"{len(ctx.job.inputs)} read")
    return "".join(path.read_text() for path in ctx.job.inputs) * config.repeat


def save(text: str, folder: Path) -> None:
    (folder / "text.txt").write_text(text.strip())
    fate.meet("first:saved")


def load(folder: Path) -> str:
    return (folder / "text.txt").read_text()


STAGE = Stage("first", (), Config, 1, run, save, load, files=lambda job: job.inputs, check=check)
