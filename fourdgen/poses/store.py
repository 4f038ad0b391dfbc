"""Writing and reading the two pose artifacts: numbers as npz, the rest as json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourdgen.data.records import Alignment, ClipAlignment, ClipTrack, RootTrack
from fourdgen.geometry.transforms import Sim3

ARRAYS, FACTS = "poses.npz", "poses.json"


def _write(folder: Path, arrays: dict[str, torch.Tensor], facts: dict[str, Any], world: Sim3 | None) -> None:
    arrays = dict(arrays)
    if world is not None:
        arrays["world/rotation"], arrays["world/translation"] = world.rotation, world.translation
        facts = {**facts, "world_scale": world.scale}
    numbers: dict[str, Any] = {name: value.detach().numpy() for name, value in arrays.items()}
    np.savez(folder / ARRAYS, **numbers)
    (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _read(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], Sim3 | None]:
    with np.load(folder / ARRAYS, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    world = None
    if "world_scale" in facts:
        world = Sim3(facts["world_scale"], arrays["world/rotation"], arrays["world/translation"])
    return arrays, facts, world


_ALIGNED = ("cam_from_root", "K", "confidence", "gain", "bias")
_ALIGNED_FACTS = ("synchronised_with", "time_offset", "time_rate", "accepted", "reason", "given", "turn", "sweep")


def save_alignment(alignment: Alignment, folder: Path) -> None:
    """poses.npz and poses.json of stage align, in its folder."""
    arrays, clips = {}, {}
    for i, (name, clip) in enumerate(alignment.clips.items()):  # numbered: clip names are free text
        arrays.update({f"{i}/{key}": getattr(clip, key) for key in _ALIGNED})
        clips[name] = {key: getattr(clip, key) for key in _ALIGNED_FACTS}
    facts = {
        "clips": clips,
        "reference": alignment.reference,
        "given": alignment.given,
        "left_out": dict(alignment.left_out),
        "doubt": alignment.doubt,
    }
    _write(folder, arrays, facts, alignment.world_from_input)


def load_alignment(folder: Path) -> Alignment:
    """What `save_alignment` wrote, exactly. Raises OSError, KeyError or ValueError where it did not."""
    arrays, facts, world = _read(folder)
    clips = {}
    for i, (name, rest) in enumerate(facts["clips"].items()):
        parts: dict[str, Any] = {**rest, **{key: arrays[f"{i}/{key}"] for key in _ALIGNED}}
        clips[name] = ClipAlignment(**parts)
    return Alignment(clips, facts["reference"], world, facts["given"], facts["left_out"], facts["doubt"])


_TRACKED = ("cam_from_root", "K", "confidence")


def save_track(track: RootTrack, folder: Path) -> None:
    """The same two files of stage root_pose."""
    arrays = {}
    for i, clip in enumerate(track.clips.values()):
        arrays.update({f"{i}/{key}": getattr(clip, key) for key in _TRACKED})
        if clip.bob is not None:
            arrays[f"{i}/bob"] = clip.bob
    held = [name for name, clip in track.clips.items() if clip.given]
    facts = {
        "clips": list(track.clips),
        "held": held,
        "given": track.given,
        "certain": track.certain,
        "reason": track.reason,
    }
    _write(folder, arrays, facts, track.world_from_input)


def load_track(folder: Path) -> RootTrack:
    """What `save_track` wrote, exactly. Raises as `load_alignment`."""
    arrays, facts, world = _read(folder)
    clips = {}
    for i, name in enumerate(facts["clips"]):
        parts: dict[str, Any] = {key: arrays[f"{i}/{key}"] for key in _TRACKED}
        clips[name] = ClipTrack(**parts, given=name in facts["held"], bob=arrays.get(f"{i}/bob"))
    return RootTrack(clips, world, facts["given"], facts["certain"], facts["reason"])
