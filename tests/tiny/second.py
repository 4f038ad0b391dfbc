"""Hashes in steps, with a checkpoint after each and a draw from the global generator in each attempt's beginning."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from fourdgen.workspace import Context, Stage
from tests.tiny import fate


@dataclass(frozen=True)
class Config:
    steps: int = 6
    label: str = ""


def run(ctx: Context, config: Config, text: str) -> str:
    checkpoint = ctx.folder / "checkpoint.json"
    done, value = 0, text + config.label + str(torch.rand(1).item())
    if checkpoint.exists():
        done, value = json.loads(checkpoint.read_text())
        ctx.report.emit("note", text=f"goes on at step {done}")
    for step in range(done + 1, config.steps + 1):
        value = hashlib.sha256(value.encode()).hexdigest()
        checkpoint.write_text(json.dumps([step, value]))
        ctx.report.emit("step", stage="second", step=step, total=config.steps, loss=1 / step)
        if step == 3:
            fate.meet("second:step3")
    ctx.job.output.write_text("early")
    return value


def save(value: str, folder: Path) -> None:
    (folder / "value.txt").write_text(value)
    fate.meet("second:saved")


def load(folder: Path) -> str:
    return (folder / "value.txt").read_text()


STAGE = Stage("second", ("first",), Config, 1, run, save, load)
