"""BoneMotion: the trainable motion. Gaussian bones, moved by a small network of time, skin the surfels."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fourdgen import native
from fourdgen.geometry.transforms import dual_quat, dual_quat_right, quat_exp, quat_multiply, quat_rotate
from fourdgen.scene.motion import SampledBones, blend_dual_quats, move
from fourdgen.scene.surfels import Surfels
from fourdgen.skinning import skin_gaussian

FINEST_PERIOD = 6.0  # frames: motion bandwidth follows the frame rate and does not fall with the clip's length
LONGEST_PERIOD = 2.0  # clip lengths
CODE_SIZE = 16
JOINT_SLIDE = 0.05  # share of its shift that a joint lets through: limbs turn, they do not slide


@dataclass(frozen=True)
class ClipTime:
    """When a clip's frames are, and whose motion they show: that of clip `code_of` at time rate * seconds + offset.

    `code_of` is the clip's own name unless it is synchronised with another. `filmed`: not a view that was made up.
    """

    seconds: Float[Tensor, "t"]
    code_of: str
    rate: float = 1.0
    offset: float = 0.0
    filmed: bool = True


class BoneMotion(nn.Module):
    """b Gaussian bones at rest and their rigid motions over time, per clip.

    A point's skinning weights are softmax_b(-|(x - center_b) / extent_b|^2). At a time, bone b is turned about its
    centre by exp(w_b) and shifted by v_b, where (w, v) come from a two-layer perceptron of Fourier features of time and
    a learned code per clip. Its last layer starts at zero, so that training starts at exactly "no motion".

    Bones may form a kinematic tree (`hang`): a bone with a parent turns about the joint between the two, hardly shifts,
    and is carried by its parent. A bone without one (`parents` is -1) turns about its own joint and shifts freely; at
    first all are free and joints are centres.
    """

    parents: Int[Tensor, "b"]

    def __init__(
        self,
        centers: Float[Tensor, "b 3"],
        extent: float,
        clips: Mapping[str, ClipTime],
        width: int = 128,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.centers = nn.Parameter(centers.clone())
        self.log_extents = nn.Parameter(torch.full((len(centers), 3), math.log(extent)))
        self.joints = nn.Parameter(centers.clone())
        self.register_buffer("parents", torch.full((len(centers),), -1))
        self.clips = dict(clips)
        self._codes = sorted({clip.code_of for clip in clips.values()})
        self._octaves = {name: octaves(len(clips[name].seconds)) for name in self._codes}
        self._features = 1 + 2 * max(self._octaves.values())
        self.code = nn.Parameter(0.1 * torch.randn(len(self._codes), CODE_SIZE, generator=generator))
        self.net = nn.Sequential(
            nn.Linear(self._features + CODE_SIZE, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, len(centers) * 6),
        )  # fmt: skip
        for layer in self.net:
            if isinstance(layer, nn.Linear):  # torch's own start, drawn from our generator so that runs repeat exactly
                bound = 1 / math.sqrt(layer.in_features)
                for tensor in (layer.weight, layer.bias):
                    tensor.data.copy_((torch.rand(tensor.shape, generator=generator) * 2 - 1) * bound)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def twists(self, clip: str, seconds: Float[Tensor, "s"]) -> Float[Tensor, "s b 6"]:
        """Rotation vectors (radians) and shifts (root units) of every bone at times of a clip."""
        features, code = self.time_features(clip, seconds)
        return self.net(torch.cat([features, self.code[code].expand(len(seconds), -1)], 1)).reshape(len(seconds), -1, 6)

    def time_features(self, clip: str, seconds: Float[Tensor, "s"]) -> tuple[Float[Tensor, "s k"], int]:
        """Fourier features of times of a clip, whose longest period is twice the clip's; and the row of its code."""
        code_of = self.clips[clip].code_of
        times = self.clips[code_of].seconds
        first, last = float(times[0]), float(times[-1])
        seconds = self.clips[clip].rate * seconds + self.clips[clip].offset
        tau = (seconds - first) / max(last - first, 1e-6) * 2 - 1
        count = self._octaves[code_of]
        angles = tau[:, None] * (math.pi / LONGEST_PERIOD * 2.0 ** torch.arange(count))
        features = torch.cat([tau[:, None], angles.sin(), angles.cos()], 1)
        return nn.functional.pad(features, (0, self._features - features.shape[1])), self._codes.index(code_of)

    def hang(self, parents: Int[Tensor, "b"], joints: Float[Tensor, "b 3"]) -> None:
        """Join the bones: `joints[b]` is where bone b hangs from bone `parents[b]` (-1: a free bone turns about it)."""
        self.parents.copy_(parents)
        self.joints.data.copy_(joints)

    @property
    def joined(self) -> bool:
        """Whether any bone hangs from another."""
        return bool((self.parents >= 0).any())

    def dual_quats(self, clip: str, seconds: Float[Tensor, "s"]) -> Float[Tensor, "s b 8"]:
        """Motion of every bone, root frame from canonical, as unit dual quaternions."""
        return self.pose(self.twists(clip, seconds))

    def pose(self, twists: Float[Tensor, "s b 6"]) -> Float[Tensor, "s b 8"]:
        """Bone motions, root frame from canonical, of given rotation vectors and shifts."""
        rotation = quat_exp(twists[..., :3])
        slide = torch.where(self.parents < 0, 1.0, JOINT_SLIDE)[:, None]
        shift = twists[..., 3:] * slide + self.joints - quat_rotate(rotation, self.joints)
        local = dual_quat(rotation, shift)
        return compose(local, tuple(self.parents.tolist())) if self.joined else local

    def skin_logits(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "b n"]:
        """Unnormalised log skinning weights, bone-major; one matrix product instead of a [b n 3] intermediate."""
        inverse = (-2 * self.log_extents).exp()
        quadratic = torch.cat([inverse, -2 * inverse * self.centers], 1) @ torch.cat([points * points, points], 1).T
        return -(quadratic + (inverse * self.centers**2).sum(1, keepdim=True))

    def carried(
        self, bones: Float[Tensor, "b 8"], means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"], Float[Tensor, "n 4"]]:
        """`skin` with this motion's own weights; the native kernel computes them on its way."""
        if not native.serves(means):
            return skin(self.skin_logits(means), bones, means, quats)
        precisions = (-2 * self.log_extents).exp()
        moved, spun, turned = skin_gaussian(self.centers, precisions, bones, means, quats, turned=True)
        return moved, spun, turned

    def warp(self, surfels: Surfels, clip: str, seconds: float) -> Surfels:
        """Surfels at a time of a clip, in the root frame."""
        bones = self.dual_quats(clip, torch.tensor([seconds]))[0]
        means, quats, turned = self.carried(bones, surfels.means, surfels.quats)
        return replace(surfels, means=means, quats=quats, turned=turned)

    @torch.no_grad()
    def written(self, surfels: Surfels, per_frame: int = 2, bones_kept: int = 4) -> tuple[Surfels, SampledBones]:
        """What a file holds: the heaviest bones of every surfel, and bone poses sampled `per_frame` times a frame."""
        weights = torch.softmax(self.skin_logits(surfels.means), 0).T
        top, ids = weights.topk(min(bones_kept, weights.shape[1]), dim=1)
        if top.shape[1] < bones_kept:
            missing = bones_kept - top.shape[1]
            top, ids = nn.functional.pad(top, (0, missing)), nn.functional.pad(ids, (0, missing))
        seconds, samples = {}, {}
        for name, clip in self.clips.items():
            times = denser(clip.seconds, per_frame)
            seconds[name] = times
            samples[name] = continuous_signs(self.dual_quats(name, times))
        written = replace(surfels, bone_ids=ids.int(), bone_weights=top / top.sum(1, keepdim=True), turned=None)
        return written, SampledBones(seconds, samples, self.centers.detach().clone())


def compose(local: Float[Tensor, "s b 8"], parents: tuple[int, ...]) -> Float[Tensor, "s b 8"]:
    """Motions along a tree: each bone's own motion, then its parent's, up to the root (parent -1)."""
    levels, ups, order = _levels(parents)
    right = dual_quat_right(local)
    done = local[:, levels[0]]
    for level, up in zip(levels[1:], ups, strict=True):
        done = torch.cat([done, (right[:, level] @ done[:, up, :, None])[..., 0]], 1)
    return done[:, order]


@functools.lru_cache(maxsize=8)
def _levels(parents: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Bones by their depth; of each but the first level its parents' places among the shallower bones; and each bone's
    place when all levels follow each other. Raises ValueError where the parents run in a circle."""
    levels = [[b for b, parent in enumerate(parents) if parent < 0]]
    flat, ups = list(levels[0]), []
    while levels[-1]:
        above = set(levels[-1])
        level = [b for b, parent in enumerate(parents) if parent in above]
        ups.append([flat.index(parents[b]) for b in level])
        levels.append(level)
        flat += level
    if len(flat) != len(parents):
        raise ValueError("the bones' parents run in a circle")
    place = torch.tensor([flat.index(b) for b in range(len(parents))])
    return [torch.tensor(level) for level in levels[:-1]], [torch.tensor(up) for up in ups[:-1]], place


def skin(
    logits: Float[Tensor, "b n"], bones: Float[Tensor, "b 8"], means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"], Float[Tensor, "n 4"]]:
    """Moved means and quats, and each surfel's own rotation; by the native kernel where it is built, else by torch."""
    if native.serves(means):
        moved, spun, turned = native.skin(logits, bones, means, quats, turned=True)
        return moved, spun, turned
    blend = blend_dual_quats(bones.expand(means.shape[0], -1, -1), torch.softmax(logits, 0).T)
    return move(blend, means, quats)


def octaves(frames: int) -> int:
    """Fourier octaves of a clip: from twice its length to a period of about six frames."""
    return max(1, round(math.log2(max(LONGEST_PERIOD * frames / FINEST_PERIOD, 1))) + 1)


def denser(seconds: Float[Tensor, "t"], per_frame: int) -> Float[Tensor, "s"]:
    """Times with per_frame - 1 further ones evenly between each two."""
    if len(seconds) == 1:
        return seconds
    share = torch.arange(per_frame) / per_frame
    inner = seconds[:-1, None] + (seconds[1:] - seconds[:-1])[:, None] * share
    return torch.cat([inner.reshape(-1), seconds[-1:]])


def continuous_signs(dual_quats: Float[Tensor, "s b 8"]) -> Float[Tensor, "s b 8"]:
    """The same motions with each sign chosen after the sample before, so that blending never turns the long way."""
    agreement = (dual_quats[1:, :, :4] * dual_quats[:-1, :, :4]).sum(-1)
    sign = torch.cumprod(torch.where(agreement < 0, -1.0, 1.0), 0)
    return torch.cat([dual_quats[:1], dual_quats[1:] * sign[..., None]])


def acceleration(motion: BoneMotion, clip: str) -> Float[Tensor, "t b"]:
    """Squared acceleration of each bone's rotation vector and shift at the inner frames of a clip.

    In radians and root units per (1/24 s)^2, from second differences: a film of the same motion at twice the frame rate
    has the same.
    """
    seconds = motion.clips[clip].seconds
    if len(seconds) < 3:
        return torch.zeros(1, len(motion.centers))
    curve = motion.twists(clip, seconds)
    pace = (len(seconds) - 1) / (24 * max(float(seconds[-1] - seconds[0]), 1e-6))  # frames per 1/24 s
    return ((curve[2:] - 2 * curve[1:-1] + curve[:-2]) ** 2).sum(-1) * pace**4


def rigidity(motion: BoneMotion, bones: Float[Tensor, "s b 8"], neighbours: int = 4) -> Float[Tensor, "s b k"]:
    """As-rigid-as-possible residual between neighbouring bones: squared distance (root units) between where two
    neighbours carry the point halfway between them (docs/method.md section 12)."""
    centers = motion.centers.detach()
    count = min(neighbours, len(centers) - 1)
    distance = torch.cdist(centers, centers) + torch.eye(len(centers)) * 1e3
    near = distance.topk(count, largest=False)[1]
    middle = 0.5 * (centers[:, None] + centers[near])
    rotation, dual = bones[..., :4], bones[..., 4:]
    shift = 2 * quat_multiply(dual, rotation * rotation.new_tensor([1.0, -1.0, -1.0, -1.0]))[..., 1:]
    own = quat_rotate(rotation[:, :, None].expand(-1, -1, count, -1), middle) + shift[:, :, None]
    other = quat_rotate(rotation[:, near], middle) + shift[:, near]
    return ((own - other) ** 2).sum(-1)
