"""scene.html: one page that plays the asset in any browser with WebGL 2, offline, without anything else beside it.

The page is web/viewer.html with web/viewer.js in it; the surfels and bone poses follow as one blob (gzip, base64).
Every array of the blob is stored as planes of bytes, lowest byte first, whose whole numbers span lo..hi; neighbours in
space are neighbours in the blob (Morton order), so that the upper planes compress well.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from fourdgen.geometry.transforms import quat_multiply
from fourdgen.scene.files import extent
from fourdgen.scene.looping import frame_time, meets_itself
from fourdgen.scene.motion import SampledBones
from fourdgen.scene.scene4d import Scene4D
from fourdgen.scene.showing import first_view
from fourdgen.scene.surfels import SH_C0, SH_C1, Surfels
from fourdgen.scene.whole import whole_file

WEB = Path(__file__).parent / "web"
NAMELESS = ("scene", "index", "out", "output", "asset")  # names of files that say nothing about what is in them
BONES = 4  # per surfel, as in scene.ply
_POSITION_STEP = 1e-4  # of the subject's radius: positions are stored at least this finely


@dataclass(frozen=True)
class _Packed:
    name: str
    planes: int  # bytes per number
    lo: float
    hi: float
    length: int
    data: bytes

    @property
    def row(self) -> dict[str, Any]:
        return {"name": self.name, "length": self.length, "planes": self.planes, "lo": self.lo, "hi": self.hi}


def write(path: Path, scene: Scene4D, title: str = "", clip: str | None = None) -> None:
    """Writes the page atomically. `title` is shown in it (default: `title_of`); it opens with `clip` (default: the
    reference).

    The motion must be sampled (SampledBones) or still; ValueError otherwise. Raises FourdgenError where the place
    cannot be written.
    """
    page = page_of(scene, title or title_of(path, scene), clip or scene.reference)
    with whole_file(path) as part:
        part.write_bytes(page.encode())


def title_of(path: Path, scene: Scene4D) -> str:
    """What a page is called: as its file, or after the reference clip where the file's name says nothing."""
    name = f"4D asset {scene.reference}" if path.stem.lower() in NAMELESS else path.stem
    return " ".join(name.replace("_", " ").split()) or "4D asset"


def page_of(scene: Scene4D, title: str, clip: str) -> str:
    """The page as text."""
    arrays = _arrays(scene)
    blob = gzip.compress(b"".join(array.data for array in arrays), 9, mtime=0)
    parts = {
        "title": html.escape(title),
        "meta": script_json({"arrays": [array.row for array in arrays], **_meta(scene, title, clip)}),
        "payload": base64.b64encode(blob).decode("ascii"),
        "script": stripped((WEB / "viewer.js").read_text(encoding="utf-8")),
    }
    template = (WEB / "viewer.html").read_text(encoding="utf-8")
    # In one pass: what stands in a title is text, whatever it looks like.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def stripped(script: str) -> str:
    """The script without comments and indentation. A comment begins a line or follows a blank; nothing else in the
    script looks like one."""
    lines = (re.sub(r"(^| +)// .*", "", line).strip() for line in script.splitlines())
    return "\n".join(line for line in lines if line)


def script_json(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside a <script> element: ASCII only, and no character that could end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _meta(scene: Scene4D, title: str, clip: str) -> dict[str, Any]:
    bones = scene.motion if isinstance(scene.motion, SampledBones) and scene.surfels.bone_ids is not None else None
    if bones is None and isinstance(scene.motion, torch.nn.Module):
        raise ValueError("a motion must be sampled before it is written")
    clips = [
        {
            "name": name,
            "first": _short(part.seconds[0]),
            "last": _short(part.seconds[-1]),
            "step": _short(frame_time(part)),
            "back": not meets_itself(scene, part),
            "samples": [] if bones is None else [_short(t) for t in bones.seconds[name]],
        }
        for name, part in scene.clips.items()
    ]
    return {
        "title": title,
        "count": len(scene.surfels),
        "bones": 0 if bones is None else len(bones.centers),
        "degree": int(scene.surfels.sh.shape[1] > 1),
        "reference": list(scene.clips).index(clip),
        "clips": clips,
        "camera": first_view(scene, clip),
    }


def _short(seconds: Any) -> float:
    return round(float(seconds), 6)


def _arrays(scene: Scene4D) -> list[_Packed]:
    surfels = scene.surfels
    surfels = surfels[torch.from_numpy(morton_order(surfels.means.detach().cpu().numpy()))].to("cpu").detach()
    means = surfels.means.double().numpy().T
    span, (_, radius) = float(np.ptp(means, axis=1).max()), extent(surfels)
    planes = next((k for k in (2, 3) if span <= _POSITION_STEP * radius * (256**k - 1)), 4)
    color = 0.5 + SH_C0 * surfels.sh[:, 0].T.numpy()
    arrays = [
        _packed("mean", means, planes),
        _packed("opacity", torch.sigmoid(surfels.opacity).numpy(), 1, 0.0, 1.0),
        _packed("quat", nearest_turn(surfels.quats)[:, 1:].T.numpy(), 2, -1.0, 1.0),
        _packed("scale", surfels.log_scales.T.numpy(), 2),
        _packed("color", np.clip(color, -0.5, 2.0), 1),
        _packed("confidence", surfels.confidence.clamp(0, 1).numpy(), 1, 0.0, 1.0),
    ]
    if surfels.sh.shape[1] > 1:
        linear = SH_C1 * surfels.sh[:, 1:4].permute(1, 2, 0).numpy()
        arrays.append(_packed("linear", linear, 1))
    if isinstance(scene.motion, SampledBones) and surfels.bone_ids is not None and surfels.bone_weights is not None:
        arrays += _skinning(surfels, scene.motion, list(scene.clips))
    return arrays


def _skinning(surfels: Surfels, motion: SampledBones, clips: list[str]) -> list[_Packed]:
    assert surfels.bone_ids is not None and surfels.bone_weights is not None
    missing = BONES - surfels.bone_ids.shape[1]
    if missing < 0:
        raise ValueError(f"{surfels.bone_ids.shape[1]} bones a surfel; a page holds {BONES}")
    ids = torch.nn.functional.pad(surfels.bone_ids, (0, missing)).T.numpy()
    weights = torch.nn.functional.pad(surfels.bone_weights, (0, missing)).T.numpy()
    poses = torch.cat([motion.dual_quats[name] for name in clips]).permute(2, 0, 1).numpy()  # parts, samples, bones
    planes = 1 if len(motion.centers) <= 256 else 2
    return [
        _packed("bone", ids, planes, 0.0, 256.0**planes - 1),
        _packed("weight", weights, 1, 0.0, 1.0),
        _packed("real", poses[[1, 2, 3, 0]], 2, -1.0, 1.0),  # xyzw, as the page has quaternions
        _packed("dual", poses[[5, 6, 7, 4]], 2),
    ]


def _packed(name: str, values: np.ndarray, planes: int, lo: float | None = None, hi: float | None = None) -> _Packed:
    values = values.astype(np.float64).reshape(-1)
    lo = float(values.min()) if lo is None else lo
    hi = float(values.max()) if hi is None else hi
    steps = 256**planes - 1
    raw = np.rint(np.clip((values - lo) / max(hi - lo, 1e-30), 0, 1) * steps).astype("<u4")
    data = raw.view(np.uint8).reshape(-1, 4)[:, :planes].T.tobytes()
    return _Packed(name, planes, lo, hi, len(values), data)


def nearest_turn(quats: Float[torch.Tensor, "n 4"]) -> Float[torch.Tensor, "n 4"]:
    """Unit quaternions of the same surfels with w >= 1/2, so that x, y, z alone determine them well.

    A surfel that is turned by half a turn about one of its own axes is the same surfel: of the four ways to write it,
    one has a w of at least 1/2.
    """
    unit = torch.nn.functional.normalize(quats, dim=-1)
    axes = torch.eye(4)
    ways = torch.stack([quat_multiply(unit, axis.expand_as(unit)) for axis in axes], 1)
    best = ways[..., 0].abs().argmax(1)
    chosen = ways[torch.arange(len(unit)), best]
    return chosen * torch.where(chosen[:, :1] < 0, -1.0, 1.0)


def morton_order(points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "n"]:
    """Indices along a space-filling curve: the bits of the three coordinates take turns (Morton 1966)."""
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    cell = (np.clip((points - low) / np.maximum(high - low, 1e-9), 0, 1) * 1023).astype(np.uint32)
    code = np.zeros(len(points), np.uint32)
    for bit in range(10):
        for axis in range(3):
            code |= ((cell[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")
