"""Neural geometry: the cameras of a clip from a feed-forward network, as one more start for the search of root poses.

Nothing believes it: `fourdgen.poses.suggested` makes a start of what a network says, and the search treats that as it
treats its own (docs/method.md section 8). The network is Depth Anything 3 (Lin et al. 2025, arXiv 2511.10647), whose
package `depth-anything-3` is Apache-2.0; of its published weights DA3-SMALL and DA3-BASE are, too. Neither is part of
fourdgen, and nothing is downloaded here.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fourdgen import weights
from fourdgen.report import FourdgenError

PACKAGES = ("depth_anything_3", "einops", "omegaconf", "addict", "huggingface_hub")
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PATCH, SIDE = 14, 280  # pixels; the longer side that the network sees: 48 frames of it fit a CPU (a minute, 4 GB)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Predicted:
    """Cameras of n frames in a world of the network's own, in which the subject stands still.

    `cam_from_world`: x right, y down, z forward. `K`: in pixels of the frames, None where the network says nothing.
    `confidence`: any positive unit, larger is surer.
    """

    cam_from_world: Float[Tensor, "n 4 4"]
    K: Float[Tensor, "n 3 3"] | None
    confidence: Float[Tensor, "n"]


class Geometry(Protocol):
    """What predicts cameras from the frames of one clip, in their order."""

    def cameras(self, rgb: UInt8[np.ndarray, "n h w 3"], mask: UInt8[np.ndarray, "n h w"]) -> Predicted:
        """`mask`: the subject, 255 inside. What lies around it must not count: it may stand while the subject turns."""
        ...


def check(model: str) -> None:
    """Raises FourdgenError: the package is not installed, or the model is not on this machine. Imports nothing big."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise FourdgenError(
            f"align.geometry: {', '.join(missing)} not installed",
            "pip install 'fourdgen[geometry]', then pip install --no-deps depth-anything-3",
        )
    _description(_folder(model))


def files_of(model: str) -> str:
    """Names, sizes and times of the model's files, as one hash: what its answers depend on beside the frames."""
    stats = [(name, (_folder(model) / name).stat()) for name in (CONFIG, WEIGHTS)]
    said = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def load(model: str, device: str) -> Geometry:
    """The network of a folder or of a hub name whose files are in the hub's cache. Raises FourdgenError: as `check`;
    weights that are not the network's."""
    check(model)
    from safetensors.torch import load_file

    folder = _folder(model)
    with _quiet():
        from depth_anything_3.cfg import create_object
        from omegaconf import OmegaConf

        network = create_object(OmegaConf.create(_description(folder)))
    try:
        stored = load_file(folder / WEIGHTS)
        stored = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
        absent = network.load_state_dict(stored, strict=False).missing_keys
    except Exception as error:  # a file that is cut off, or tensors of other sizes
        raise _not_a_model(folder / WEIGHTS, str(error).strip().splitlines()[0]) from error
    if absent:
        raise _not_a_model(folder / WEIGHTS, f"{absent[0]} is not in it")
    return DepthAnything3(network.eval().float().to(device))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The package prints how it builds its layers, and asks for functions that its libraries are about to drop."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class DepthAnything3:
    """The network of package `depth_anything_3`, on whole frames with white around the subject."""

    def __init__(self, network: Any) -> None:
        self.network = network

    @torch.inference_mode()
    def cameras(self, rgb: UInt8[np.ndarray, "n h w 3"], mask: UInt8[np.ndarray, "n h w"]) -> Predicted:
        pictures = prepared(rgb, mask)
        with _quiet():
            out = self.network(pictures[None].to(next(self.network.parameters()).device))
        height, width = rgb.shape[1:3]
        poses = torch.eye(4).repeat(len(rgb), 1, 1)
        poses[:, :3] = out.extrinsics[0].cpu().float()[:, :3]
        shrunk = torch.tensor([width / pictures.shape[3], height / pictures.shape[2], 1.0])
        K = out.intrinsics[0].cpu().float() * shrunk[:, None]
        inside = torch.from_numpy(mask > 127)[:, None].float()
        inside = torch.nn.functional.interpolate(inside, pictures.shape[2:], mode="area")[:, 0]
        sure = out.depth_conf[0].cpu().float()
        confidence = (sure * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1e-6)
        return Predicted(poses, K, confidence)


def prepared(rgb: UInt8[np.ndarray, "n h w 3"], mask: UInt8[np.ndarray, "n h w"]) -> Float[Tensor, "n 3 H W"]:
    """Frames on white, SIDE pixels at the longer side or fewer, in whole patches, as the network was trained on."""
    height, width = rgb.shape[1:3]
    scale = min(1.0, SIDE / max(height, width))
    size = tuple(max(1, round(side * scale / PATCH)) * PATCH for side in (width, height))
    made = []
    for picture, alpha in zip(rgb, mask, strict=True):
        share = alpha[..., None].astype(np.float32) / 255
        white = picture.astype(np.float32) / 255 * share + 1 - share
        made.append((cv2.resize(white, size, interpolation=cv2.INTER_AREA) - MEAN) / DEVIATION)
    return torch.from_numpy(np.stack(made)).float().permute(0, 3, 1, 2)


def _folder(model: str) -> Path:
    """Where the model's files lie: its own folder, or the hub's cache for a hub name. Never downloads."""
    try:
        folder = weights.model_folder(model)
    except (OSError, ValueError) as error:
        raise FourdgenError(
            f"align.geometry: {model} is no folder, and the hub's cache does not have it",
            f"give a folder with {CONFIG} and {WEIGHTS}, or fetch one: hf download depth-anything/DA3-SMALL",
        ) from error
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise _not_a_model(folder, f"there is no {name}")
    return folder


def _description(folder: Path) -> dict[str, Any]:
    """How the network is built. A hub folder may be anybody's, and a description can name any Python object or have
    text evaluated: only the package's own objects, and plain values, pass."""
    path = folder / CONFIG
    try:
        network = json.loads(path.read_text(encoding="utf-8"))["config"]
        objects = _objects(network)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_a_model(path, "it does not describe a network") from error
    if any(not name.startswith("depth_anything_3.model.") for name in objects) or "${" in json.dumps(network):
        raise _not_a_model(path, "it names what is not the package's")
    if "cam_dec" not in network:
        raise _not_a_model(path, "the network predicts no cameras")
    return network


def _objects(value: Any) -> list[str]:
    """Modules of all objects that a description asks for."""
    if isinstance(value, dict):
        here = [str(value["__object__"]["path"])] if "__object__" in value else []
        return here + [name for item in value.values() for name in _objects(item)]
    return [name for item in value for name in _objects(item)] if isinstance(value, list) else []


def _not_a_model(path: Path, said: str) -> FourdgenError:
    return FourdgenError(
        f"align.geometry: {path}: not a model of Depth Anything 3 that predicts cameras ({said})",
        "such as depth-anything/DA3-SMALL or DA3-BASE of the hub",
    )
