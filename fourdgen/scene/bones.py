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
from fourdgen.geometry.timeline import ticks
from fourdgen.geometry.transforms import dual_quat, dual_quat_right, quat_exp, quat_multiply, quat_rotate
from fourdgen.scene.motion import SampledBones, blend_dual_quats, move
from fourdgen.scene.surfels import Surfels
from fourdgen.skinning import pose_bones, skin_gaussian

FINEST_PERIOD = 6.0  # steps between frames that train: motion bandwidth follows their rate, whatever the clip's length
LONGEST_PERIOD = 2.0  # clip lengths
CODE_SIZE = 16
JOINT_SLIDE = 0.05  # share of its shift that a joint lets through: limbs turn, they do not slide


@dataclass(frozen=True)
class ClipTime:
    """When a clip's frames are, and whose motion they show: that of clip `code_of` at time rate * seconds + offset.

    `code_of` is the clip's own name unless it is synchronised with another. `filmed`: not a view that was made up.
    `every`: every nth frame trains; the others tell nothing of how the body moves.
    """

    seconds: Float[Tensor, "t"]
    code_of: str
    rate: float = 1.0
    offset: float = 0.0
    filmed: bool = True
    every: int = 1

    @functools.cached_property
    def even_seconds(self) -> Float[Tensor, "t"]:
        """As many times as there are frames, evenly spread over them: `seconds` where these are even already."""
        count = len(self.seconds)
        if bool((ticks(self.seconds) == torch.arange(count)).all()):
            return self.seconds
        return torch.linspace(float(self.seconds[0]), float(self.seconds[-1]), count)


class BoneMotion(nn.Module):
    """b Gaussian bones at rest and their rigid motions over time, per clip.

    A point's skinning weights are softmax_b(-|(x - center_b) / extent_b|^2). At a time, bone b is turned about its
    centre by exp(w_b) and shifted by v_b, where (w, v) come from a two-layer perceptron of Fourier features of time and
    a learned code per clip. Its last layer starts at zero, so that training starts at exactly "no motion". `pace`: the
    share of the usual learning rate at which the perceptron trains.

    Bones may form a kinematic tree (`hang`): a bone with a parent turns about the joint between the two, hardly shifts,
    and is carried by its parent. A bone without one (`parents` is -1) turns about its own joint and shifts freely; at
    first all are free and joints are centres.
    """

    parents: Int[Tensor, "b"]
    pace: Float[Tensor, ""]

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
        self._moments = {code: moments(clips, code) for code in self._codes}
        times = self._moments.items()
        self._spans = {k: (float(t[0]), max(float(t[-1] - t[0]), 1e-6)) for k, t in times}
        self._frequencies = {
            k: math.pi / LONGEST_PERIOD * 2.0 ** torch.arange(octaves(t, clips[k].every)) for k, t in times
        }
        self._features = 1 + 2 * max(map(len, self._frequencies.values()))
        self.code = nn.Parameter(0.1 * torch.randn(len(self._codes), CODE_SIZE, generator=generator))
        self.net = nn.Sequential(
            nn.Linear(self._features + CODE_SIZE, width), nn.ReLU(),
            nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, len(centers) * 6),
        )  # fmt: skip
        self.register_buffer("pace", torch.ones(()))
        self.forget(generator)

    def twists(self, clip: str, seconds: Float[Tensor, "s"]) -> Float[Tensor, "s b 6"]:
        """Rotation vectors (radians) and shifts (root units) of every bone at times of a clip."""
        features, code = self.time_features(clip, seconds)
        return self.net(torch.cat([features, self.code[code].expand(len(seconds), -1)], 1)).reshape(len(seconds), -1, 6)

    def time_features(self, clip: str, seconds: Float[Tensor, "s"]) -> tuple[Float[Tensor, "s k"], int]:
        """Fourier features of times of a clip, whose longest period is twice what is filmed of its motion; and the row
        of its code."""
        time = self.clips[clip]
        first, span = self._spans[time.code_of]
        tau = (time.rate * seconds + (time.offset - first)) * (2 / span) - 1
        angles = tau[:, None] * self._frequencies[time.code_of]
        features = torch.cat([tau[:, None], angles.sin(), angles.cos()], 1)
        return nn.functional.pad(features, (0, self._features - features.shape[1])), self._codes.index(time.code_of)

    def forget(self, generator: torch.Generator | None) -> None:
        """Draws the perceptron afresh: nothing moves, and it can be taught another motion (`distil`)."""
        for layer in self.net:
            if isinstance(layer, nn.Linear):  # torch's own start, drawn from our generator so that runs repeat exactly
                bound = 1 / math.sqrt(layer.in_features)
                for tensor in (layer.weight, layer.bias):
                    tensor.data.copy_((torch.rand(tensor.shape, generator=generator) * 2 - 1) * bound)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def hang(self, parents: Int[Tensor, "b"], joints: Float[Tensor, "b 3"]) -> None:
        """Join the bones: `joints[b]` is where bone b hangs from bone `parents[b]` (-1: a free bone turns about it)."""
        self.parents.copy_(parents)
        self.joints.data.copy_(joints)

    def moments(self, code: str) -> Float[Tensor, "t"]:
        """All the times, on the clock of clip `code`, at which its motion was filmed by some clip (`moments`)."""
        return self._moments[code]

    @property
    def joined(self) -> bool:
        """Whether any bone hangs from another."""
        return bool((self.parents >= 0).any())

    def dual_quats(self, clip: str, seconds: Float[Tensor, "s"]) -> Float[Tensor, "s b 8"]:
        """Motion of every bone, root frame from canonical, as unit dual quaternions."""
        return self.pose(self.twists(clip, seconds))

    def pose(self, twists: Float[Tensor, "s b 6"]) -> Float[Tensor, "s b 8"]:
        """Bone motions, root frame from canonical, of given rotation vectors and shifts."""
        if native.serves(twists):
            parents, order = _tree(tuple(self.parents.tolist()))
            return pose_bones(twists, self.joints, parents, order, JOINT_SLIDE)
        rotation = quat_exp(twists[..., :3])
        slide = torch.where(self.parents < 0, 1.0, JOINT_SLIDE)[:, None]
        shift = twists[..., 3:] * slide + self.joints - quat_rotate(rotation, self.joints)
        return compose(dual_quat(rotation, shift), tuple(self.parents.tolist()))

    def skin_logits(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "b n"]:
        """Unnormalised log skinning weights, bone-major; one matrix product instead of a [b n 3] intermediate."""
        inverse = (-2 * self.log_extents).exp()
        quadratic = torch.cat([inverse, -2 * inverse * self.centers], 1) @ torch.cat([points * points, points], 1).T
        return -(quadratic + (inverse * self.centers**2).sum(1, keepdim=True))

    def carried(
        self, bones: Float[Tensor, "b 8"], means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"]
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"], Float[Tensor, "n 4"]]:
        """Moved means and quats, and each surfel's own rotation; the native kernel computes weights on its way."""
        if not native.serves(means):
            weights = torch.softmax(self.skin_logits(means), 0).T
            return move(blend_dual_quats(bones.expand(len(means), -1, -1), weights), means, quats)
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
    right, done = dual_quat_right(local), list(local.unbind(1))
    for bone in _tree(parents)[1].tolist():
        if parents[bone] >= 0:
            done[bone] = (right[:, bone] @ done[parents[bone]][..., None])[..., 0]
    return torch.stack(done, 1)


@functools.lru_cache(maxsize=8)
def _tree(parents: tuple[int, ...]) -> tuple[Int[Tensor, "b"], Int[Tensor, "b"]]:
    """Parents, and an order in which each bone follows its own, int32. Raises ValueError where they run in a circle."""
    order: list[int] = []
    level = {-1}
    while level:
        level = {bone for bone, parent in enumerate(parents) if parent in level}
        order += sorted(level)
    if len(order) != len(parents):
        raise ValueError("the bones' parents run in a circle")
    return torch.tensor(parents, dtype=torch.int32), torch.tensor(order, dtype=torch.int32)


def moments(clips: Mapping[str, ClipTime], code: str) -> Float[Tensor, "t"]:
    """When the motion of clip `code` was filmed, on that clip's clock: the times of its own frames and, at their pace,
    whatever filmed clips that are synchronised with it show before its first frame or after its last."""
    own = clips[code].seconds
    shared = [clip.rate * clip.seconds + clip.offset for clip in clips.values() if clip.code_of == code and clip.filmed]
    first, last = min(float(time[0]) for time in shared), max(float(time[-1]) for time in shared)
    step = float(own.diff().median()) if len(own) > 1 else 1 / 24
    before, after = (round(max(0.0, over) / step) for over in (float(own[0]) - first, last - float(own[-1])))
    if before == after == 0:
        return own
    early = torch.linspace(first, float(own[0]), before + 1)[:-1]
    return torch.cat([early, own, torch.linspace(float(own[-1]), last, after + 1)[1:]])


def octaves(seconds: Float[Tensor, "t"], every: int = 1) -> int:
    """Fourier octaves of a clip: from twice its length to a period of about six frames that train, which every
    `every`th one does. Frames that are missing count as if they were there (where they are not most), for what moves
    through the gap is the same motion."""
    frames = min(float(ticks(seconds)[-1]) + 1, 2 * len(seconds)) / every
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
    """Squared acceleration of each bone's rotation vector and shift at the inner ones of as many times as a clip has
    frames, evenly spread over it: also where frames are missing.

    In radians and root units per (1/24 s)^2, from second differences: a film of the same motion at twice the frame rate
    has the same, and one at a varying frame rate.
    """
    seconds = motion.clips[clip].even_seconds
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
