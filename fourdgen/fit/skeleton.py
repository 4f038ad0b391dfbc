"""Bones cut anew by how surfels move, and the tree that joins them (docs/method.md section 12)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial import cKDTree
from torch import Tensor

from fourdgen.adam import Adam
from fourdgen.fit.clusters import k_means_centers
from fourdgen.geometry.timeline import ticks
from fourdgen.geometry.transforms import (
    nearest_rotation,
    quat_conjugate,
    quat_from_matrix,
    quat_log,
    quat_multiply,
    quat_rotate,
)
from fourdgen.scene.bones import BoneMotion

MOST_POINTS = 3000
INSTANTS = 12  # of each motion, at most, at which trajectories are compared
TRAJECTORY_WEIGHT = 2.0  # of how a point moves against where it is
SMOOTHING = 1.5  # usual steps from frame to frame
NEIGHBOURS = 8
EXTENT = 1.5 * math.sqrt(2)  # extent of a bone, in standard deviations of its points
DISTIL_STEPS, DISTIL_RATE = 400, 4e-3


@dataclass(frozen=True)
class Clusters:
    """Points with their bone, and the place of each in trajectory space."""

    rest: Float[Tensor, "p 3"]
    features: Float[Tensor, "p d"]
    label: Int[Tensor, "p"]
    paths: Mapping[str, Float[Tensor, "t p 3"]]  # by clip with a motion of its own, whenever that was filmed


def recut(old: BoneMotion, points: Float[Tensor, "n 3"], tree: bool, generator: torch.Generator) -> BoneMotion:
    """A fresh motion with as many bones as `old`, which moves the canonical `points` nearly as `old` does."""
    with torch.no_grad():
        clusters = by_trajectory(old, points, generator)
        centers, extents = _shapes(clusters, old)
        rotation, shift = rigid_fits(clusters, centers)
        parents, joints = torch.full((len(centers),), -1), centers
        if tree and len(centers) > 1:
            parents, joints = span(clusters, centers)
        targets = {name: local_twists(rotation[name], shift[name], centers, parents, joints) for name in rotation}
    motion = BoneMotion(centers, 1.0, old.clips, generator=generator)
    motion.log_extents.data.copy_(extents.log())
    motion.hang(parents, joints)
    motion.pace.copy_(old.pace)
    distil(motion, targets, generator)
    return motion


@torch.no_grad()
def by_trajectory(motion: BoneMotion, points: Float[Tensor, "n 3"], generator: torch.Generator) -> Clusters:
    """Clusters of points that are close and move alike: k-means on mean place and weighted path."""
    rest = points[torch.randperm(len(points), generator=generator)[:MOST_POINTS]]
    paths = {name: trajectories(motion, rest, name) for name in motion.clips if motion.clips[name].code_of == name}
    mean = torch.cat(list(paths.values())).mean(0)
    moves = [path[instants(motion.moments(name))] - mean for name, path in paths.items()]
    scale = TRAJECTORY_WEIGHT / math.sqrt(sum(len(move) for move in moves))
    features = torch.cat([mean, *(scale * move.transpose(0, 1).flatten(1) for move in moves)], 1)
    return Clusters(rest, features, k_means(features, len(motion.centers), generator), paths)


def trajectories(motion: BoneMotion, points: Float[Tensor, "p 3"], clip: str) -> Float[Tensor, "t p 3"]:
    """Where the motion of a clip carries canonical points whenever it was filmed, smoothed over some three frames."""
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(points), 4).contiguous()
    bones = motion.dual_quats(clip, motion.moments(clip))
    paths = torch.stack([motion.carried(bone, points, quats)[0] for bone in bones])
    time = ticks(motion.moments(clip))
    kernel = torch.exp(-((time[:, None] - time) ** 2) / (2 * SMOOTHING**2)) * stands_for(time)
    return torch.einsum("st,tpc->spc", kernel / kernel.sum(1, keepdim=True), paths)


def stands_for(time: Float[Tensor, "t"]) -> Float[Tensor, "t"]:
    """How much of a clip each frame stands for, in steps: less where frames are dense; one step at the ends, and no
    more beside a gap. `time` in steps (see `ticks`)."""
    step = time.diff().clamp_max(1)
    outer = torch.ones(1)
    return (torch.cat([outer, step]) + torch.cat([step, outer])) / 2


def instants(seconds: Float[Tensor, "t"]) -> Int[Tensor, "k"]:
    """The moments nearest to INSTANTS times at most, evenly spread over them all."""
    time, every = ticks(seconds), -(-len(seconds) // INSTANTS)
    even = torch.arange(0, len(time), every) * (time[-1] / max(1, len(time) - 1))
    return (time - even[:, None]).abs().argmin(1).unique()


def k_means(features: Float[Tensor, "p d"], count: int, generator: torch.Generator) -> Int[Tensor, "p"]:
    """Cluster of each point; the start is a random point and, again and again, the point farthest from all chosen."""
    first = features[torch.randint(len(features), (1,), generator=generator)]
    centers = k_means_centers(features, first, count, 10)
    return torch.cdist(features, centers).argmin(1)


def _shapes(clusters: Clusters, old: BoneMotion) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3"]]:
    """Centre and extent of every bone; one without points keeps the centre that its predecessor had."""
    centers, spread = old.centers.detach().clone(), torch.full_like(old.centers, 0.03)
    for b in range(len(centers)):
        own = clusters.rest[clusters.label == b]
        if len(own):
            centers[b] = own.mean(0)
        if len(own) > 3:
            spread[b] = own.std(0).clamp_min(0.02)
    return centers, spread * EXTENT


def rigid_fits(
    clusters: Clusters, centers: Float[Tensor, "b 3"]
) -> tuple[dict[str, Float[Tensor, "t b 4"]], dict[str, Float[Tensor, "t b 3"]]]:
    """Per motion and moment the rotation of each bone about its centre, and its shift, that best carry its points along
    their paths (Kabsch 1976)."""
    rotations, shifts = {}, {}
    for name, path in clusters.paths.items():
        rotation = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(path), len(centers), 4).clone()
        shift = torch.zeros(len(path), len(centers), 3)
        for b in range(len(centers)):
            own = clusters.label == b
            if not bool(own.any()):
                continue
            before, after = clusters.rest[own], path[:, own]
            middle, moved = before.mean(0), after.mean(1)
            if len(before) > 3:
                covariance = (after - moved[:, None]).transpose(1, 2) @ (before - middle)
                rotation[:, b] = quat_from_matrix(nearest_rotation(covariance))
            shift[:, b] = moved - middle + quat_rotate(rotation[:, b], centers[b] - middle) - (centers[b] - middle)
        rotations[name], shifts[name] = rotation, shift
    return rotations, shifts


def span(clusters: Clusters, centers: Float[Tensor, "b 3"]) -> tuple[Int[Tensor, "b"], Float[Tensor, "b 3"]]:
    """Parents (-1 for the root, the bone nearest to the middle) and joints of the minimum spanning tree over clusters.

    Clusters touch where points are neighbours in trajectory space, so a leg that passes the other one does not touch
    it. The more they touch, the cheaper is the edge; a joint is the mean of the points where they do.
    """
    count, label = len(centers), clusters.label.numpy()
    features = clusters.features.numpy()
    reach = min(NEIGHBOURS + 1, len(features))
    near = cKDTree(features).query(features, k=reach)[1].reshape(len(features), -1)[:, 1:]
    touch = np.zeros((count, count))
    np.add.at(touch, (np.repeat(label, near.shape[1]), label[near].ravel()), 1)
    touch = touch + touch.T
    places = np.stack(
        [features[label == b].mean(0) if (label == b).any() else np.full(features.shape[1], 10.0) for b in range(count)]
    )
    distance = np.linalg.norm(places[:, None] - places, axis=-1) + 1e-6
    cost = np.where(touch > 0, distance * (1 + 20 / (1 + touch)), 10 + 30 * distance)
    np.fill_diagonal(cost, 0)
    edges = minimum_spanning_tree(cost)
    weight = np.bincount(label, minlength=count)[:, None]
    middle = (centers.numpy() * weight).sum(0) / weight.sum()
    root = int(np.linalg.norm(centers.numpy() - middle, axis=1).argmin())
    order, above = breadth_first_order(edges + edges.T, root, directed=False)
    parents, joints = torch.full((count,), -1), centers.clone()
    for b in order[1:]:
        parents[b] = int(above[b])
        border = ((label == b)[:, None] & (label[near] == above[b])).any(1)
        joints[b] = clusters.rest[border].mean(0) if border.sum() > 3 else 0.5 * (centers[b] + centers[above[b]])
    return parents, joints


def local_twists(
    rotation: Float[Tensor, "t b 4"], shift: Float[Tensor, "t b 3"], centers: Float[Tensor, "b 3"],
    parents: Int[Tensor, "b"], joints: Float[Tensor, "b 3"],
) -> Float[Tensor, "t b 6"]:  # fmt: skip
    """What BoneMotion's network has to say: rotations relative to the parent's, and the shifts of free bones alone."""
    hangs = (parents >= 0)[:, None]
    above = rotation[:, parents.clamp_min(0)]
    local = torch.where(hangs, quat_multiply(quat_conjugate(above), rotation), rotation)
    arm = joints - centers
    free = shift + quat_rotate(rotation, arm.expand_as(shift)) - arm
    return torch.cat([quat_log(local), torch.where(hangs, torch.zeros_like(free), free)], -1)


def distil(motion: BoneMotion, targets: Mapping[str, Float[Tensor, "t b 6"]], generator: torch.Generator) -> float:
    """Teach a network bone motions, given by clip with a motion of its own at all `BoneMotion.moments` of that; the
    squared error that is left, as a share of the targets' mean square.

    The network should be fresh: one that has settled hardly learns a new motion.
    """
    last = motion.net[-1]
    assert isinstance(last, torch.nn.Linear)
    bound = 0.1 / math.sqrt(last.in_features)  # small, not zero: zeros would leave the layers below without a gradient
    last.weight.data.copy_((torch.rand(last.weight.shape, generator=generator) * 2 - 1) * bound)
    inputs = [motion.time_features(name, motion.moments(name)) for name in targets]
    features = torch.cat([part for part, _ in inputs])
    codes = torch.cat([torch.full((len(part),), code) for part, code in inputs])
    target = torch.cat(list(targets.values())).flatten(1)
    optimizer = Adam([{"params": [motion.code, *motion.net.parameters()], "lr": DISTIL_RATE}])
    for step in range(DISTIL_STEPS):
        optimizer.param_groups[0]["lr"] = DISTIL_RATE * (1 - 0.95 * step / DISTIL_STEPS)
        error = F.mse_loss(motion.net(torch.cat([features, motion.code[codes]], 1)), target)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return float(error.detach() / (target**2).mean().clamp_min(1e-9))
