"""The trainable asset: surfel parameters, bone motion and root-pose corrections, with one Adam over them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fourdgen.adam import Adam
from fourdgen.data.records import ClipTrack
from fourdgen.fit.hull import Seeds, facing_quats, seed_log_scale
from fourdgen.geometry.transforms import rigid, so3_exp
from fourdgen.scene.bones import BoneMotion, ClipTime
from fourdgen.scene.surfels import Surfels, sh_from_rgb

SURFEL_PARAMETERS = ("means", "quats", "log_scales", "opacity", "sh")


@dataclass(frozen=True)
class Rates:
    """Adam learning rates at the start, in units of the normalised root frame (docs/method.md section 12)."""

    means: float = 2e-3
    quats: float = 0.01
    log_scales: float = 0.01
    opacity: float = 0.05
    sh: float = 0.018
    motion: float = 3e-3
    bones: float = 2e-3
    poses: float = 1e-3
    focal: float = 5e-4


class PoseCorrections(torch.nn.Module):
    """cam_from_root(f) = Exp(xi_f) base(f) and a focal factor per clip; first the base (docs/method.md section 8).

    `held`: clips whose focal lengths stay as they are.
    """

    def __init__(self, tracks: Mapping[str, ClipTrack], held: Collection[str] = ()) -> None:
        super().__init__()
        self._base = {name: track.cam_from_root for name, track in tracks.items()}
        self._names = list(tracks)
        self._held = frozenset(held)
        self.twists = torch.nn.ParameterList([torch.zeros(len(track.K), 6) for track in tracks.values()])
        self.log_focal = torch.nn.Parameter(torch.zeros(len(tracks)))

    def twist_of(self, clip: str) -> Float[Tensor, "t 6"]:
        return self.twists[self._names.index(clip)]

    def covers(self, clip: str) -> bool:
        """Whether this clip's poses may be corrected: those of made-up views and of given cameras are known."""
        return clip in self._base

    def pose(self, clip: str, index: int) -> Float[Tensor, "4 4"]:
        return _turned(self._base[clip][index], self.twist_of(clip)[index])

    def path(self, clip: str) -> Float[Tensor, "t 4 4"]:
        """The poses of all frames of a clip."""
        return _turned(self._base[clip], self.twist_of(clip))

    def change(self, clip: str) -> Float[Tensor, "t 4 4"]:
        """What corrects the poses of all frames of a clip, as poses: nothing at first."""
        twist = self.twist_of(clip)
        return _turned(torch.eye(4).expand(len(twist), 4, 4), twist)

    def intrinsics(self, clip: str, K: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
        if clip in self._held:
            return K
        factor = self.log_focal[self._names.index(clip)].exp()
        return K * (1 + (factor - 1) * torch.diag(torch.tensor([1.0, 1.0, 0.0])))

    @torch.no_grad()
    def tracks(self, tracks: Mapping[str, ClipTrack]) -> dict[str, ClipTrack]:
        out = {}
        for name, track in tracks.items():
            if not self.covers(name):
                out[name] = track
                continue
            poses = self.path(name)
            K = torch.stack([self.intrinsics(name, k) for k in track.K])
            out[name] = ClipTrack(poses, K, track.confidence)
        return out


def _turned(base: Float[Tensor, "*t 4 4"], twist: Float[Tensor, "*t 6"]) -> Float[Tensor, "*t 4 4"]:
    """The turn is about the root's origin, so that a small twist moves the picture little."""
    rotation = so3_exp(twist[..., :3]) @ base[..., :3, :3]
    return rigid(rotation, base[..., :3, 3] + twist[..., 3:])


class Model:
    """Owns every trained tensor. Births and deaths replace surfel tensors; Adam's moments follow them."""

    def __init__(
        self, surfels: Mapping[str, Tensor], motion: BoneMotion, corrections: PoseCorrections | None, rates: Rates
    ):
        self.p = {name: surfels[name].detach().clone().requires_grad_(True) for name in SURFEL_PARAMETERS}
        self.motion = motion
        self.corrections = corrections
        self.rates = rates
        groups = [{"params": [self.p[name]], "base": getattr(rates, name), "name": name} for name in SURFEL_PARAMETERS]
        groups.append({"params": [motion.code, *motion.net.parameters()], "base": rates.motion, "name": "motion"})
        groups.append(
            {"params": [motion.centers, motion.log_extents, motion.joints], "base": rates.bones, "name": "bones"}
        )
        if corrections is not None:
            groups.append({"params": list(corrections.twists), "base": rates.poses, "name": "poses"})
            groups.append({"params": [corrections.log_focal], "base": rates.focal, "name": "focal"})
        self.optimizer = Adam([{**group, "lr": 0.0} for group in groups], eps=1e-15)

    @staticmethod
    def from_seeds(
        seeds: Seeds, motion: BoneMotion, corrections: PoseCorrections | None, rates: Rates, opacity: float
    ) -> Model:
        count = len(seeds.points)
        start = {
            "means": seeds.points,
            "quats": facing_quats(seeds.normals),
            "log_scales": torch.full((count, 2), seed_log_scale(seeds.spacing)),
            "opacity": torch.full((count,), float(torch.logit(torch.tensor(opacity)))),
            "sh": sh_from_rgb(seeds.colors.clamp(0.02, 0.98)),
        }
        return Model(start, motion, corrections, rates)

    @staticmethod
    def taken_up(state: Mapping[str, Any], clips: Mapping[str, ClipTime], corrections: PoseCorrections | None) -> Model:
        """The model of a `trained` state, with Adam anew. The clips must show the motions that it knows."""
        centers = state["motion"]["centers"]
        motion = BoneMotion(torch.zeros_like(centers), 1.0, clips)
        motion.load_state_dict(state["motion"])
        return Model(state["surfels"], motion, corrections, Rates())

    def trained(self) -> dict[str, dict[str, Tensor]]:
        """What training has found, without what it needs to go on exactly: see `state`."""
        surfels = {name: tensor.detach() for name, tensor in self.p.items()}
        return {"surfels": surfels, "motion": self.motion.state_dict()}

    def rebuilt(self, surfels: Mapping[str, Tensor], motion: BoneMotion) -> Model:
        """Other surfels and another motion under the same root poses, whose moments go on."""
        model = Model(surfels, motion, self.corrections, self.rates)
        if self.corrections is not None:
            for parameter in self.corrections.parameters():
                if parameter in self.optimizer.state:
                    model.optimizer.state[parameter] = self.optimizer.state[parameter]
        return model

    def __len__(self) -> int:
        return self.p["means"].shape[0]

    def surfels(self) -> Surfels:
        """The canonical surfels as they are now (with gradients)."""
        return Surfels(**self.p, confidence=torch.ones(len(self)))

    def hold_motion(self) -> None:
        """From here on the motion stays as it is: bones and network are no longer trained."""
        for parameter in self.motion.parameters():
            parameter.requires_grad_(False)
        groups = self.optimizer.param_groups
        self.optimizer.param_groups = [group for group in groups if group["name"] not in ("motion", "bones")]

    def set_rates(self, factor: Callable[[str], float]) -> None:
        """Each group's rate = its start times factor(name); the motion has a pace of its own besides."""
        for group in self.optimizer.param_groups:
            pace = float(self.motion.pace) if group["name"] == "motion" else 1.0
            group["lr"] = group["base"] * factor(group["name"]) * pace

    @torch.no_grad()
    def reindex(self, index: Int[Tensor, "m"], edits: Mapping[str, Callable[[Tensor], Tensor]] | None = None) -> None:
        """Surfels become `surfels[index]`, then edited by name; a child starts with its parent's moments."""
        for group in self.optimizer.param_groups:
            name = group["name"]
            if name not in self.p:
                continue
            old = self.p[name]
            state = self.optimizer.state.pop(old, None)
            new = old.detach()[index].clone()
            if edits and name in edits:
                new = edits[name](new)
            new.requires_grad_(True)
            if state:
                moments = {key: state[key][index].clone() for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[new] = {**state, **moments}
            self.p[name] = new
            group["params"][0] = new

    def state(self) -> dict[str, object]:
        """Everything a checkpoint needs; plain tensors and numbers, so that it loads with weights_only=True."""
        return {
            "surfels": {name: tensor.detach() for name, tensor in self.p.items()},
            "motion": self.motion.state_dict(),
            "corrections": self.corrections.state_dict() if self.corrections is not None else {},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        for group in self.optimizer.param_groups:
            name = group["name"]
            if name in self.p:
                self.optimizer.state.pop(self.p[name], None)
                self.p[name] = state["surfels"][name].clone().requires_grad_(True)
                group["params"][0] = self.p[name]
        self.motion.load_state_dict(state["motion"])
        if self.corrections is not None:
            self.corrections.load_state_dict(state["corrections"])
        self.optimizer.load_state_dict(state["optimizer"])
