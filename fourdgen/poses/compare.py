"""Render and compare: a small surfel model and the root poses under which it looks like the pictures.

A Fit holds one hypothesis. Rotations are small turns away from its start, given in a basis: a few cosines at first, so
that a whole clip moves together, then one turn per frame. Depth is written as focal length times distance, so that a
change of focal length changes the perspective and not the size.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourdgen import native
from fourdgen.adam import Adam
from fourdgen.geometry.camera import Cameras
from fourdgen.geometry.timeline import Spacing
from fourdgen.geometry.transforms import rigid, so3_exp, turn_rates
from fourdgen.poses.level import tilt
from fourdgen.poses.pictures import Pictures
from fourdgen.render import Rasterizer, RenderOut, pick

SUBJECT = 1.7  # the subject's largest extent in the root frame: a radius of 0.85
COLOR_WEIGHT = 3.0  # of colour against alpha, both mean L1
GRID, GRID_REACH = 32, 1.15  # the hull is carved from GRID^3 points of the cube of this half side
HULL_FRAMES = 24
TINT_PRIOR = 0.01  # weight of the squared log gains and biases of colour


@dataclass(frozen=True)
class Pace:
    """Learning rates and weights of one phase of a fit."""

    turn: float = 0.004  # radians
    place: float = 0.003  # subject sizes
    depth: float = 0.0015  # log distance
    focal: float = 0.0  # log focal length
    model: float = 1.0  # factor on all rates of the surfels
    whole: float = 0.0  # radians, one turn of the root per clip but the first
    tether: float = 0.3  # weight of the squared turns as wholes: motion biases them, see settle_together
    bend: float = 0.0  # root lengths, shifts of the nodes
    stiff: float = 0.3  # weight of the nodes' squared shifts
    smooth: float = 0.5  # weight of the squared acceleration of the rotations (Spacing): radians, mean frame steps
    steady: float = 0.5  # the same of log distance
    tint: float = 0.0  # log gain and bias of the colours of each clip but the first
    level: float = 0.0  # weight of the squared sines of the cameras' roll


def rasterizer() -> Rasterizer:
    """The compiled kernel, with as many threads as it is told (one where clips are solved side by side; pictures do not
    depend on it), or torch where it is not built."""
    return pick("cpu", "cpu") if native.available() else pick("tiled", "cpu")


def cosines(time: Float[Tensor, "n"], count: int) -> Float[Tensor, "n k"]:
    """The first `count` cosines over `time` scaled to 0..1: a basis of smooth curves."""
    span = (time - time.min()) / (time.max() - time.min()).clamp_min(1e-6)
    return torch.cos(math.pi * span[:, None] * torch.arange(count))


def clip_cosines(pictures: Pictures, count: int) -> Float[Tensor, "n k"]:
    """Cosines of each clip's own time, side by side."""
    times = [pictures.time[pictures.clip == c] for c in pictures.clip.unique()]
    return torch.block_diag(*(cosines(time, min(count, len(time))) for time in times))


def hats(time: Float[Tensor, "n"], knots: int) -> Float[Tensor, "n k"]:
    """Piecewise linear curves over at most `knots` evenly spread knots: one a frame when the clip is short."""
    knots = min(knots, len(time))
    if knots < 2:
        return torch.ones(len(time), 1)
    if knots == len(time):
        time = torch.arange(knots).float()  # whenever they were filmed
    at = (time - time.min()) / (time.max() - time.min()).clamp_min(1e-6) * (knots - 1)
    return (1 - (at[:, None] - torch.arange(knots)).abs()).clamp_min(0)


def facing(center: Float[Tensor, "n 2"], focal: Float[Tensor, "n"] | float) -> Float[Tensor, "n 3 3"]:
    """The shortest turn of the camera axis to the ray through `center` (in sides from the principal point)."""
    depth = torch.as_tensor(focal, dtype=torch.float32).expand(len(center))
    ray = F.normalize(torch.cat([center, depth[:, None]], 1), dim=-1)
    axis = torch.stack([-ray[:, 1], ray[:, 0], torch.zeros(len(ray))], 1)  # z cross ray
    sine = axis.norm(dim=-1, keepdim=True)
    angle = torch.atan2(sine, ray[:, 2:])
    return so3_exp(axis / sine.clamp_min(1e-9) * angle)


class Fit:
    """One hypothesis: surfels, poses, focal lengths (in sides). `start` are its first rotations cam_from_root.

    `held`: numbers of clips whose cameras are known: their rotations, places and focal lengths never move.
    """

    def __init__(
        self, pictures: Pictures, start: Float[Tensor, "n 3 3"], focal: Float[Tensor, "c"], surfels: int, seed: int,
        model: dict[str, Tensor] | None = None, place: Float[Tensor, "n 3"] | None = None,
        held: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        self.pictures = pictures
        self.loose = torch.tensor([float(clip not in held) for clip in range(len(focal))])  # 0 for a held clip
        self.zooming = torch.ones(len(focal))  # 0 for a clip whose focal length is known
        self.spacing = Spacing.of(pictures.time, pictures.clip)
        self.base = start
        self.focal = focal.clone().log().requires_grad_()
        self.distance = SUBJECT / pictures.extent  # per side of focal length
        count = len(pictures)
        begin = torch.cat([pictures.center, torch.zeros(count, 1)], 1) if place is None else place
        self.place = begin.clone().requires_grad_()  # x, y in sides, log distance
        self.basis = torch.eye(count) * self.loose[pictures.clip, None]
        self.turns = torch.zeros(count, 3, requires_grad=True)
        self.whole = torch.zeros(len(focal), 3, requires_grad=True)
        self.tint = torch.zeros(len(focal) - 1, 6, requires_grad=True)  # log gain (3), bias (3)
        self.nodes: Nodes | None = None
        self.course: Callable[[Tensor], Tensor] | None = None  # a cost of the rotations, whatever the pictures say
        self.generator = torch.Generator().manual_seed(seed)
        self.raster = rasterizer()
        self._order: list[int] = []
        model = carve(self, surfels, self.generator) if model is None else model
        self.model = {name: value.detach().clone().requires_grad_() for name, value in model.items()}

    # ---- poses

    def use_basis(self, basis: Float[Tensor, "n k"]) -> None:
        """Continue from the present poses, with turns in another basis (held clips do not turn in any)."""
        self.base = self.rotations().detach()
        self.whole = torch.zeros_like(self.whole).requires_grad_()
        self.basis = basis * self.loose[self.pictures.clip, None]
        self.turns = torch.zeros(basis.shape[1], 3, requires_grad=True)

    def rotations(self) -> Float[Tensor, "n 3 3"]:
        turned = so3_exp(self.basis @ self.turns) @ self.base
        if len(self.whole) == 1:
            return turned
        return turned @ so3_exp(self.whole)[self.pictures.clip]

    def focals(self) -> Float[Tensor, "n"]:
        return self.focal.exp()[self.pictures.clip]

    def translations(self) -> Float[Tensor, "n 3"]:
        focal = self.focals()
        depth = focal * self.distance[self.pictures.clip] * self.place[:, 2].exp()
        return torch.stack([self.place[:, 0] * depth / focal, self.place[:, 1] * depth / focal, depth], 1)

    def poses(self) -> Float[Tensor, "n 4 4"]:
        """cam_from_root."""
        return rigid(self.rotations(), self.translations())

    # ---- pictures

    def render(self, index: Tensor, poses: Float[Tensor, "n 4 4"] | None = None) -> RenderOut:
        """The model in the windows of some frames, over white. `poses`: those of all frames, if they are at hand."""
        poses = self.poses() if poses is None else poses
        K = self.pictures[index].intrinsics(self.focals()[index])
        means = None if self.nodes is None else self.nodes.bent(self.model["means"], index)
        out = self.draw(Cameras(poses[index], K, (self.pictures.side,) * 2), means)
        return out if len(self.tint) == 0 else replace(out, rgb=self._tinted(out, self.pictures.clip[index]))

    def _tinted(self, out: RenderOut, clip: Tensor) -> Float[Tensor, "k s s 3"]:
        """The model in the colours of the clips: filmed = gain * colour + bias where it is, white elsewhere."""
        gain, bias = self.tones()
        alpha = out.alpha[..., None]
        behind = 1 - alpha
        return gain[clip, None, None] * (out.rgb - behind) + bias[clip, None, None] * alpha + behind

    def tones(self) -> tuple[Float[Tensor, "c 3"], Float[Tensor, "c 3"]]:
        """Gain and bias of every clip's colours against the model's; the first clip's are 1 and 0."""
        tint = torch.cat([torch.zeros(1, 6), self.tint])
        return tint[:, :3].exp(), tint[:, 3:]

    def draw(self, cameras: Cameras, means: Float[Tensor, "v n 3"] | None = None) -> RenderOut:
        """The model as any cameras see it; `means`: its places in each view if it is bent."""
        m = self.model
        return self.raster(
            m["means"] if means is None else means, m["quats"], m["log_scales"].exp(), torch.sigmoid(m["opacity"]),
            torch.sigmoid(m["color"]), cameras, background=torch.ones(3),
        )  # fmt: skip

    def errors(self, index: Tensor, poses: Float[Tensor, "n 4 4"] | None = None) -> Float[Tensor, "k"]:
        """Loss of each of the frames `index`, of a pixel whose truth is known."""
        out = self.render(index, poses)
        target, known = self.pictures.picture[index], self.pictures.known[index]
        color = ((out.rgb.permute(0, 3, 1, 2) - target[:, :3]).abs() * known[:, None]).mean((1, 2, 3))
        outline = ((out.alpha - target[:, 3]).abs() * known).mean((1, 2))
        return (COLOR_WEIGHT * color + outline) / known.mean((1, 2)).clamp_min(1e-3)

    @torch.no_grad()
    def score(self, index: Tensor | None = None) -> float:
        """Mean loss over the frames (all by default); those that show less of the subject count less."""
        pictures = self.pictures if index is None else self.pictures[index]
        return pictures.mean(self.frame_scores(index))

    @torch.no_grad()
    def frame_scores(self, index: Tensor | None = None) -> Float[Tensor, "n"]:
        index = torch.arange(len(self.pictures)) if index is None else index
        poses = self.poses()
        return torch.cat([self.errors(part, poses) for part in index.split(16)])

    # ---- optimisation

    def run(self, steps: int, pace: Pace, batch: int = 6, decay: bool = True) -> None:
        """`steps` steps of Adam, each on `batch` frames; every frame is drawn before any is drawn again."""
        m, extent = self.model, float(self.pictures.extent.mean())
        groups = [
            ([self.turns], pace.turn), ([self.focal], pace.focal),
            ([m["means"]], 0.01 * pace.model), ([m["quats"], m["log_scales"]], 0.02 * pace.model),
            ([m["opacity"], m["color"]], 0.05 * pace.model), ([self.whole], pace.whole),
            ([self.tint], pace.tint * min(1, len(self.tint))),
        ]  # fmt: skip
        if self.nodes is not None:
            groups.append(([self.nodes.shifts], pace.bend))
        # Columns of `place` have different units; scaling the variable gives each its own rate.
        unit = torch.tensor([pace.place * extent, pace.place * extent, pace.depth]).clamp_min(1e-12)
        before, moves = self.place.detach(), self.loose[self.pictures.clip, None]
        place = (before / unit).requires_grad_()
        held = {id(place): moves, id(self.whole): self.loose[:, None], id(self.focal): self.loose * self.zooming}
        groups.append(([place], 1.0))
        active = [{"params": params, "lr": rate, "first": rate} for params, rate in groups if rate > 0]
        optimizer = Adam(active, betas=(0.9, 0.98))
        every = [p for params, rate in groups if rate > 0 for p in params]
        for step in range(steps):
            factor = max(0.1, 1 - step / steps) if decay else 1.0
            for group in optimizer.param_groups:
                group["lr"] = group["first"] * factor
            index = self._draw(batch)
            self.place = place * unit
            rotations = self.rotations()
            poses = rigid(rotations, self.translations())
            loss = (self.errors(index, poses) * self.pictures.weight[index]).mean()
            if pace.smooth > 0:
                loss = loss + pace.smooth * self.spacing.of_rates(turn_rates(rotations))
            if pace.level > 0 and pace.turn + pace.whole > 0:
                loss = loss + pace.level * tilt(rotations)
            if self.course is not None:
                loss = loss + self.course(rotations)
            if pace.steady > 0:
                loss = loss + pace.steady * self.spacing.of_values(self.place[:, 2:])
            if pace.whole > 0:
                loss = loss + pace.tether * (self.whole**2).sum()
            if pace.tint > 0:
                loss = loss + TINT_PRIOR * (self.tint**2).sum()
            if self.nodes is not None:
                loss = loss + pace.stiff * self.nodes.strain(index)
            grads = torch.autograd.grad(loss, every, allow_unused=True)
            for parameter, grad in zip(every, grads, strict=True):
                parameter.grad = grad if grad is None or id(parameter) not in held else grad * held[id(parameter)]
            optimizer.step()
        self.place = torch.where(moves > 0, (place * unit).detach(), before).requires_grad_()

    def _draw(self, batch: int) -> Tensor:
        chosen: list[int] = []
        while len(chosen) < min(batch, len(self.pictures)):
            if not self._order:
                self._order = torch.randperm(len(self.pictures), generator=self.generator).tolist()
            chosen.append(self._order.pop())
        return torch.tensor(chosen)


class Nodes:
    """Body motion as the search needs it: a few points of the root frame that shift over time, surfels between them.

    It is there so that a leap or a bow is not read as a turn of the camera. Shifts are cosines in time, per clip. A
    body may turn as a whole while it moves (a galloping fox pitches by 22 degrees, a knight who strikes turns by 50),
    and pictures do not tell that from a camera that swings; cameras move smoothly, bodies do not, so nodes may turn
    together, at the price of `strain`, unless `turning` is off. Shifting together is projected out, for that is the
    root's part, and so is the turn that stays all the time, which would be another root frame.
    """

    def __init__(self, fit: Fit, count: int, waves: int, turning: bool = True) -> None:
        means = fit.model["means"].detach()
        self.centers = _farthest(means, count)
        spacing = float(torch.cdist(self.centers, self.centers).fill_diagonal_(9.0).amin(1).mean())
        distance = torch.cdist(means, self.centers) / (0.7 * spacing)
        self.weights = torch.softmax(-0.5 * distance**2, 1)
        self.basis = clip_cosines(fit.pictures, waves)
        self.shifts = torch.zeros(self.basis.shape[1], count, 3, requires_grad=True)
        x, y, z = (self.centers - self.centers.mean(0)).T
        o, one = torch.zeros_like(x), torch.ones_like(x)
        moves = [(one, o, o), (o, one, o), (o, o, one), (o, -z, y), (z, o, -x), (-y, x, o)]
        rigid_moves = torch.linalg.qr(torch.stack([torch.stack(move, 1).flatten() for move in moves], 1))[0]
        self.shifted, self.turned = rigid_moves[:, :3], rigid_moves[:, 3:]
        constant = ((self.basis == 1) | (self.basis == 0)).all(0)  # the first cosine of each clip
        self.unturned = torch.where(constant, 1.0, 0.0 if turning else 1.0)[:, None]

    def at(self, index: Tensor) -> Float[Tensor, "k m 3"]:
        """Shifts of the nodes in some frames."""
        flat = self.shifts.flatten(1)
        flat = flat - (flat @ self.shifted) @ self.shifted.T
        free = flat - self.unturned * ((flat @ self.turned) @ self.turned.T)
        return (self.basis[index] @ free).reshape(len(index), -1, 3)

    def of_rows(self, rows: Tensor) -> Nodes:
        """The same nodes for some of the frames only."""
        part = copy.copy(self)
        part.basis = self.basis[rows]
        return part

    def bent(self, means: Float[Tensor, "n 3"], index: Tensor) -> Float[Tensor, "k n 3"]:
        return means + self.weights @ self.at(index)

    def strain(self, index: Tensor) -> Float[Tensor, ""]:
        """Mean squared shift (root lengths)."""
        return (self.at(index) ** 2).sum(-1).mean()


def _farthest(points: Float[Tensor, "n 3"], count: int) -> Float[Tensor, "m 3"]:
    """Points far from each other, the first next to the middle."""
    chosen = [int((points - points.mean(0)).norm(dim=-1).argmin())]
    nearest = (points - points[chosen[0]]).norm(dim=-1)
    for _ in range(count - 1):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).norm(dim=-1))
    return points[chosen]


# ---- the first model of a hypothesis


@torch.no_grad()
def carve(fit: Fit, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """`count` surfels on the shell of what the masks have in common under the fit's poses, coloured from the frames."""
    line = torch.linspace(-GRID_REACH, GRID_REACH, GRID)
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    pictures, poses = fit.pictures, fit.poses()
    chosen = torch.linspace(0, len(pictures) - 1, min(HULL_FRAMES, len(pictures))).round().long()
    cameras = Cameras(poses[chosen], pictures[chosen].intrinsics(fit.focals()[chosen]), (pictures.side,) * 2)
    mask = _look_up(pictures.picture[chosen, 3:], cameras, points)[:, 0]
    # A frame has no say about a point that lies where nobody knows what it shows (windows end in the known).
    says = (_look_up(1 - pictures.known[chosen, None], cameras, points)[:, 0] < 0.5) * pictures.weight[chosen, None]
    inside = ((mask > 0.3) * says).mean(0) / says.mean(0).clamp_min(0.25)
    inside = inside.reshape(1, 1, GRID, GRID, GRID)
    level = 0.9
    if int((inside >= level).sum()) < 300:  # the frames contradict each other: what most of them share
        level = min(level, float(inside.flatten().quantile(0.985)))
    solid = F.avg_pool3d((inside >= level).float(), 3, 1, 1)[0, 0]
    shell = ((solid > 0.15) & (solid < 0.85)).reshape(-1).nonzero()[:, 0]
    if len(shell) < 50:
        shell = inside.reshape(-1).argsort(descending=True, stable=True)[:500]
    take = shell[torch.randint(len(shell), (count,), generator=generator)]
    slope = torch.stack(torch.gradient(F.avg_pool3d(solid[None, None], 3, 1, 1)[0, 0]), -1).reshape(-1, 3)[take]
    normals = F.normalize(-slope + 1e-4 * torch.randn(count, 3, generator=generator), dim=-1)
    means = points[take] + 0.4 * (line[1] - line[0]) * torch.randn(count, 3, generator=generator)
    quats = torch.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], torch.zeros(count)], -1)
    quats[quats.norm(dim=-1) < 1e-3] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    seen = _look_up(pictures.picture[chosen], cameras, means)
    towards = torch.einsum("vij,nj->vni", cameras.cam_from_world[:, :3, :3], normals)[..., 2]
    weight = (-towards - 0.2).clamp_min(0) * (seen[:, 3] > 0.9)
    color = (torch.einsum("vn,vcn->nc", weight, seen[:, :3]) + 5e-4) / (weight.sum(0)[:, None] + 1e-3)
    return {
        "means": means,
        "quats": F.normalize(quats, dim=-1),
        "log_scales": torch.full((count, 2), math.log(2.0 / math.sqrt(count))),
        "opacity": torch.full((count,), 1.5),
        "color": torch.logit(color.clamp(0.03, 0.97)),
    }


def _look_up(
    pictures: Float[Tensor, "v c s s"], cameras: Cameras, points: Float[Tensor, "n 3"]
) -> Float[Tensor, "v c n"]:
    """Values of the pictures where the points fall; 0 outside."""
    pixels, _ = cameras.project(points)
    grid = pixels[:, None] / cameras.size[0] * 2 - 1
    return F.grid_sample(pictures, grid, align_corners=False)[:, :, 0]
