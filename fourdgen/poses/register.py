"""One clip in the root frame of another: votes over a bank of views both ways, then a joint fit decides (method.md 9).

Each clip was solved alone, in a root frame of its own. Between two of them one rotation, one shift and one scale are
unknown. The vote alone takes front for back on near-symmetric subjects; the joint fit of the best few does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.transforms import nearest_rotation, quat_from_matrix, quat_multiply, rotation_angle_degrees
from fourdgen.poses.accept import bank_costs, looking_at_subject, view_bank
from fourdgen.poses.compare import Fit, Nodes, Pace, clip_cosines
from fourdgen.poses.level import about_y, level_turn
from fourdgen.poses.pictures import Pictures, join, spread
from fourdgen.poses.stranger import color_distance, exposed_distance, strange, subject_colors

CANDIDATES = 4
APART = 40.0  # degrees between candidates
REACH = 20.0  # degrees up to which a view of the bank speaks for a pose
FRAMES = 24  # of each clip in the joint fit
STEPS = (40, 60, 60)  # for each candidate: poses held, turning as wholes, bending a little; no body motion here
POLISH = (80, 80, 100)  # for the chosen one, with a model carved from both: held, turning as wholes, bending
NODES, WAVES = 20, 10  # body motion: how many points shift, in how many cosines of time
TINT = 0.01  # rate of log gain and bias of colour
HELD_LEVEL = 5.0  # weight of the horizon while paths keep their shape: it acts on the turns as wholes alone
MARGIN = 1.03  # of the second best loss over the best


@dataclass(frozen=True)
class Solved:
    """A clip solved alone: its windows, rotations cam_from_root, places, focal length in sides, model and loss.

    What a registration needs of one clip alone is found once, with however many others the clip is compared.
    """

    pictures: Pictures
    rotation: Float[Tensor, "n 3 3"]
    place: Float[Tensor, "n 3"]
    focal: float
    model: dict[str, Tensor]
    loss: float
    _alone: dict[tuple[int, float, frozenset[int]], float] = field(init=False, repr=False, default_factory=dict)

    def fit(self, seed: int = 0) -> Fit:
        return Fit(
            self.pictures, self.rotation, torch.tensor([self.focal]), 0, seed, model=self.model, place=self.place
        )

    @cached_property
    def bank(self) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b d"]]:
        """The model's views, see `view_bank`."""
        return view_bank(self.fit())

    @cached_property
    def looking(self) -> Float[Tensor, "n 3 3"]:
        """See `looking_at_subject`."""
        return looking_at_subject(self.fit()).detach()

    def alone(self, seed: int, effort: float, held: frozenset[int]) -> float:
        """Loss of the clip that has a model of its own, after as many steps as a joint one gets."""
        key = (seed, effort, held)
        if key not in self._alone:
            focal = torch.tensor([self.focal])
            fit = Fit(self.pictures, self.rotation, focal, 1000, seed, place=self.place, held=held)
            settle_together(fit, POLISH, effort)
            self._alone[key] = fit.score()
        return self._alone[key]

    @cached_property
    def levelled(self) -> tuple[Solved, bool]:
        """The same in a root frame whose y axis points down as the cameras' horizon tells, and whether it tells."""
        turn, determined = level_turn(self.rotation)
        back = quat_from_matrix(turn.T)
        model = {
            **self.model,
            "means": self.model["means"] @ turn,
            "quats": quat_multiply(back.expand_as(self.model["quats"]), self.model["quats"]),
        }
        return replace(self, rotation=self.rotation @ turn, model=model), determined


@dataclass(frozen=True)
class Registration:
    """`rotation`, `place`: the other clip's poses in the reference's root frame. `margin`: how much worse the next
    rotation fits, as a factor. `stranger`: losses of both clips in company over their losses alone (geometric mean).
    `apart`: between the subjects' colours; `exposed`: the same under the best exposure. `gain`, `bias`: other clip's
    colour = gain * reference's + bias.
    """

    rotation: Float[Tensor, "n 3 3"]
    place: Float[Tensor, "n 3"]
    margin: float
    stranger: float
    apart: float
    exposed: float
    fits: bool
    reason: str
    gain: Float[Tensor, "3"]
    bias: Float[Tensor, "3"]


def votes(reference: Solved, other: Solved) -> tuple[list[Float[Tensor, "3 3"]], float]:
    """The best distinct rotations other_from_reference: what each clip's frames (that show the whole subject) find in
    the other's bank of views. And how ill the best one fits: what frames cost at the views next to their poses, over
    what they cost at a typical view, summed over both clips.

    Where both horizons are known only rotations about the y axis stand for election.
    """
    (reference, sure), (other, other_sure) = reference.levelled, other.levelled
    upright = sure and other_sure
    whole_r, whole_o = reference.pictures.whole, other.pictures.whole
    ours, theirs = reference.looking[whole_r], other.looking[whole_o]
    (bank_r, crops_r), (bank_o, crops_o) = reference.bank, other.bank
    costs_o = bank_costs(crops_r, other.pictures[whole_o])  # their frames in our bank
    costs_r = bank_costs(crops_o, reference.pictures[whole_r])
    candidates = torch.cat([_proposals(theirs, bank_r, costs_o), _proposals(ours, bank_o, costs_r).transpose(1, 2)])
    if upright:
        candidates = torch.stack([about_y(candidate) for candidate in candidates])
    score = torch.stack(
        [
            _spoken(theirs @ a, bank_r, costs_o) / costs_o.median()
            + _spoken(ours @ a.T, bank_o, costs_r) / costs_r.median()
            for a in candidates
        ]
    )
    chosen: list[Tensor] = []
    order = score.argsort(stable=True)
    for i in order.tolist():
        if len(chosen) == CANDIDATES:
            break
        if all(float(rotation_angle_degrees(candidates[i], c)) > APART for c in chosen):
            near = (rotation_angle_degrees(candidates[i], candidates) < 12) & (score < 1.05 * score[i])
            chosen.append(nearest_rotation(candidates[near].sum(0)))
    return chosen, float(score.min())


def _proposals(poses: Tensor, bank: Tensor, costs: Tensor) -> Float[Tensor, "m 3 3"]:
    """Rotations that put a frame's pose on one of the views that it looks like most."""
    frames = spread(len(poses), 24)
    best = costs[frames].topk(8, largest=False).indices
    return (poses[frames].transpose(1, 2)[:, None] @ bank[best]).flatten(0, 1)


def _spoken(poses: Tensor, bank: Tensor, costs: Tensor) -> Float[Tensor, ""]:
    """Mean cost of the frames at the bank's views next to their poses; frames far from every view cost much."""
    traces = torch.einsum("nij,sij->ns", poses, bank)
    nearest = traces.max(1)
    cost = costs.gather(1, nearest.indices[:, None])[:, 0]
    far = nearest.values < 1 + 2 * math.cos(math.radians(REACH))
    return torch.where(far, costs.quantile(0.7, dim=1), cost).mean()


def register(reference: Solved, other: Solved, seed: int, effort: float = 1.0, known: bool = False) -> Registration:
    """The other clip's poses in the reference's root frame, by the rotation under which one model explains both.

    Where both horizons are known, the rotation is one about the vertical: two motions of one body differ in pitch.
    `known`: the reference's cameras were given and are held.
    """
    back = level_turn(reference.rotation)[0].T  # to the frame that the caller knows
    turns, _ = votes(reference, other)
    reference, other = reference.levelled[0], other.levelled[0]
    held = frozenset({0} if known else ())
    few_r, few_o = spread(len(reference.pictures), FRAMES), spread(len(other.pictures), FRAMES)
    results = []
    for rotation in turns:
        turned = other.rotation @ rotation
        place = settle(reference, other, turned)
        joint = joint_fit(
            [reference.pictures[few_r], other.pictures[few_o]], [reference.rotation[few_r], turned[few_o]],
            [reference.place[few_r], place[few_o]], [reference.focal, other.focal], seed, held, model=reference.model,
        )  # fmt: skip
        still, whole, free = (max(3, round(steps * effort)) for steps in STEPS)
        joint.run(still, Pace(turn=0.0, smooth=0.0, tint=TINT), batch=8, decay=False)
        joint.run(whole, Pace(turn=0.0, smooth=0.0, whole=0.005, level=HELD_LEVEL, tint=TINT / 2), batch=8, decay=False)
        joint.use_basis(clip_cosines(joint.pictures, 4))
        joint.run(free, Pace(turn=0.004), batch=8)
        results.append((joint.score(), rotation, turned, place))
    results.sort(key=lambda r: r[0])
    loss, rotation, turned, place = results[0]
    margin = results[1][0] / loss if len(results) > 1 else float("inf")
    joint = joint_fit(
        [reference.pictures, other.pictures], [reference.rotation, turned], [reference.place, place],
        [reference.focal, other.focal], seed, held,
    )  # fmt: skip
    settle_together(joint, POLISH, effort)
    count = len(reference.pictures)
    errors = joint.frame_scores()
    worse = [
        clip.pictures.mean(together) / max(clip.alone(seed, effort, fixed), 1e-6)
        for clip, together, fixed in ((reference, errors[:count], held), (other, errors[count:], frozenset()))
    ]
    stranger = math.sqrt(worse[0] * worse[1])
    gain, bias = (tone[1].detach() for tone in joint.tones())
    apart = color_distance(reference.pictures, other.pictures)
    exposed = exposed_distance(reference.pictures, other.pictures)
    unlike, reason = strange(stranger, apart, exposed), ""
    if unlike:
        reason = "it looks like another subject than the reference (--reference)"
    elif margin < MARGIN:
        reason = "it may face another way than the reference (--reference, --cameras)"
    return Registration(
        joint.rotations().detach()[count:] @ back, joint.place.detach()[count:], margin, stranger, apart, exposed,
        not unlike, reason, gain, bias,
    )  # fmt: skip


def tone(
    pictures: list[Pictures], rotation: list[Tensor], place: list[Tensor], focal: list[float], seed: int, effort: float
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Gain and bias of the second clip's colours against the first's, both under poses that are known and stay.

    Factors under which the clips' mean colours agree are where it begins, and what the model settles under: light acts
    by a factor. The fit then corrects what the sides that only one clip shows do to the means, in small steps, for a
    bias that is free to move explains half of another light before the model's colours have settled.
    """
    joint = joint_fit(pictures, rotation, place, focal, seed)
    first, second = (subject_colors(clip).mean(0).clamp_min(0.02) for clip in pictures)
    joint.tint = torch.cat([(second / first).log(), torch.zeros(3)])[None].requires_grad_()
    held, _, bent = (max(3, round(count * effort)) for count in POLISH)
    still = Pace(turn=0.0, place=0.0, depth=0.0, smooth=0.0, steady=0.0, tint=TINT / 8)
    joint.run(held, replace(still, tint=0.0), batch=8, decay=False)
    joint.nodes = Nodes(joint, NODES, WAVES)
    joint.run(bent, replace(still, bend=0.004), batch=8)
    gain, bias = (values[1].detach() for values in joint.tones())
    return gain, bias


def settle_together(joint: Fit, steps: tuple[int, int, int], effort: float, stiff: float = 0.3) -> None:
    """Steps with poses held, then with each clip but the first turning as a whole, then with nodes that bend.

    Two clips show two motions. Were their poses free already, they would turn to make up for the difference: a dog
    that eats and one that walks ended 15 degrees off. Each path keeps its shape until the nodes explain that, and
    even its turn as a whole is tethered to where the votes put it: lowered heads pitch the whole root by 15 degrees.
    """
    held, whole, bent = (max(3, round(count * effort)) for count in steps)
    joint.run(held, Pace(turn=0.0, smooth=0.0, tint=TINT), batch=8, decay=False)
    several = len(joint.whole) > 1
    if several:
        joint.run(whole, Pace(turn=0.0, smooth=0.0, whole=0.004, level=HELD_LEVEL, tint=TINT / 2), batch=8, decay=False)
    joint.nodes = Nodes(joint, NODES, WAVES)
    pace = Pace(turn=0.0, smooth=0.0, whole=0.003 * several, bend=0.004, stiff=stiff, level=HELD_LEVEL, tint=TINT / 2)
    joint.run(bent, pace, batch=8, decay=False)


def joint_fit(
    pictures: list[Pictures], rotation: list[Tensor], place: list[Tensor], focal: list[float], seed: int,
    held: frozenset[int] = frozenset(), model: dict[str, Tensor] | None = None, surfels: int = 1000,
) -> Fit:  # fmt: skip
    """One model for several clips, whose poses are already in one root frame."""
    return Fit(join(pictures), torch.cat(rotation), torch.tensor(focal), surfels, seed, model, torch.cat(place), held)


@torch.no_grad()
def settle(reference: Solved, other: Solved, rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3"]:
    """Places of the other clip's frames in the reference's root frame, for these rotations.

    Scale from the masks' areas (one factor for the clip), then one shift of the root by least squares on the masks'
    centroids: what is left of a frame's shift is the root's own motion, which `other.place` already has.
    """
    place = other.place.clone()
    for _ in range(2):
        fit = Fit(other.pictures, rotation, torch.tensor([other.focal]), 0, 0, model=reference.model, place=place)
        poses = fit.poses()
        drawn = torch.cat([fit.render(part, poses).alpha for part in torch.arange(len(place)).split(16)])
        drawn, given = drawn * other.pictures.known, other.pictures.picture[:, 3] * other.pictures.known
        size = 0.5 * (drawn.sum((1, 2)).clamp_min(1) / given.sum((1, 2)).clamp_min(1)).log().median()
        place[:, 2] += size
        moved = (_centroid(given) - _centroid(drawn)) / other.pictures.unit[:, None]  # in sides
        depth = fit.translations()[:, 2]
        wanted = moved * (depth / other.focal)[:, None]
        system = rotation[:, :2].reshape(-1, 3)
        counts = system * other.pictures.weight.repeat_interleave(2)[:, None]
        shift = torch.linalg.solve(counts.T @ system + 1e-3 * len(system) * torch.eye(3), counts.T @ wanted.reshape(-1))
        place = placed(fit.translations() * size.exp() + rotation @ shift, fit)
    return place


def placed(translation: Float[Tensor, "n 3"], fit: Fit) -> Float[Tensor, "n 3"]:
    """The places (x, y in sides, log distance) that give these translations under the fit's focal lengths."""
    focal = fit.focals().detach()
    depth = translation[:, 2].clamp_min(1e-3)
    across = translation[:, :2] * (focal / depth)[:, None]
    return torch.cat([across, (depth / (focal * fit.distance[fit.pictures.clip])).log()[:, None]], 1)


def _centroid(alpha: Float[Tensor, "n s s"]) -> Float[Tensor, "n 2"]:
    line = torch.arange(alpha.shape[-1]) + 0.5
    area = alpha.sum((1, 2)).clamp_min(1e-3)
    return torch.stack([(alpha.sum(1) * line).sum(1) / area, (alpha.sum(2) * line).sum(1) / area], 1)
