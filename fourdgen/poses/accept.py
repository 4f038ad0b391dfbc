"""Is a solved camera path right? Four tests, of which no single one is enough (docs/method.md section 8)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourdgen.geometry.camera import Cameras, look_at, orbit_eyes
from fourdgen.geometry.transforms import nearest_rotation, rigid, rotation_angle_degrees
from fourdgen.poses.compare import Fit, facing
from fourdgen.poses.hypotheses import azimuths
from fourdgen.poses.pictures import Pictures
from fourdgen.poses.turn import Turn

FLOW_AGREES, MARGIN, OVERLAP, RELOCATED = 0.8, 1.15, 0.80, 0.75
STILL_MARGIN = 1.10  # of a still view over a turn against the flow: one that did turn had 1.14
SMALL_TURN = 35.0  # degrees; before cameras that stood still four of the bench's 28 bodies made paths of 11 to 27
DISTINCT = 20.0  # degrees of median difference that make a rival another solution
BANK_AZIMUTHS, BANK_ELEVATIONS = 36, (-15.0, 0.0, 15.0, 30.0, 45.0)
NEAR = 25.0  # degrees within which a frame counts as found again
CROP = 32


@dataclass(frozen=True)
class Verdict:
    """Outcome of the tests. `margin`: loss of the best distinct rival over this one's (inf without a rival)."""

    accepted: bool
    reason: str  # what failed, as a sentence; empty when accepted
    flow: float  # share of clear frames whose flow has the sign of the solved turn (1 when nothing is clear)
    margin: float
    overlap: float  # mean IoU of masks
    relocated: float  # share of frames whose best view of the bank lies near the solved pose


def global_turn(a: Float[Tensor, "n 3 3"], b: Float[Tensor, "n 3 3"]) -> Float[Tensor, "3 3"]:
    """The one rotation A for which a @ A is nearest to b, outliers weighing less."""
    weight = torch.ones(len(a))
    for _ in range(10):
        turn = nearest_rotation(torch.einsum("n,nji,njk->ik", weight, a, b))
        weight = 1 / rotation_angle_degrees(a @ turn, b).clamp_min(3.0)
    return turn


def path_difference(a: Float[Tensor, "n 3 3"], b: Float[Tensor, "n 3 3"]) -> float:
    """Median angle in degrees between two camera paths after one global rotation."""
    return float(rotation_angle_degrees(a @ global_turn(a, b), b).median())


def flow_agreement(rotations: Float[Tensor, "n 3 3"], frames: Tensor, turn: Turn) -> float:
    """Share of the clear frames, weighted by how clear, in which flow and solved azimuth turn the same way."""
    angle = azimuths(rotations)
    total = torch.cat([torch.zeros(1), (turn.rate * turn.clear).cumsum(0)])
    seen = total[frames[1:]] - total[frames[:-1]]
    clear = seen.abs() > 1e-6
    if not bool(clear.any()):
        return 1.0
    weight = seen.abs().clamp_max(2 * float(seen.abs()[clear].median()))
    return float((weight * (torch.sign(seen) == torch.sign(torch.diff(angle))) * clear).sum() / (weight * clear).sum())


@torch.no_grad()
def overlap(fit: Fit) -> float:
    """Mean IoU of the rendered and the given masks, where these are known."""
    values = []
    poses = fit.poses()
    for index in torch.arange(len(fit.pictures)).split(16):
        known = fit.pictures.known[index] > 0.5
        drawn, given = (fit.render(index, poses).alpha > 0.5) & known, (fit.pictures.picture[index, 3] > 0.5) & known
        values.append((drawn & given).sum((1, 2)) / (drawn | given).sum((1, 2)).clamp_min(1))
    return fit.pictures.mean(torch.cat(values))


def crops(pictures: Float[Tensor, "n 4 s s"]) -> Float[Tensor, "n d"]:
    """Colour against white and mask, moved and scaled to the mask's centroid and area: comparable across windows."""
    alpha = pictures[:, 3]
    line = torch.arange(pictures.shape[-1]) + 0.5
    area = alpha.sum((1, 2)).clamp_min(4)
    x, y = (alpha.sum(1) * line).sum(1) / area, (alpha.sum(2) * line).sum(1) / area
    reach = torch.linspace(-1, 1, CROP)[None] * 2.0 * area.sqrt()[:, None]
    scale = 2 / pictures.shape[-1]
    across, down = ((x[:, None] + reach) * scale - 1), ((y[:, None] + reach) * scale - 1)
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), -1)
    layers = torch.cat([1 - pictures[:, :3], pictures[:, 3:]], 1)
    return F.grid_sample(layers, grid, align_corners=False).flatten(1)


@torch.no_grad()
def view_bank(fit: Fit) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b d"]]:
    """The model seen from 180 directions: rotations cam_from_root and crops."""
    azimuth = torch.arange(BANK_AZIMUTHS) * (360 / BANK_AZIMUTHS)
    eyes = torch.cat([orbit_eyes(azimuth, elevation, 1.0) for elevation in BANK_ELEVATIONS])
    rotation = look_at(eyes)[:, :3, :3]
    center = fit.model["means"].mean(0)
    distance, side = float(fit.translations()[:, 2].median()), 48
    # The window shows 2.4 units at the subject's distance.
    K = torch.tensor([[side / 2.4 * distance, 0, side / 2], [0, side / 2.4 * distance, side / 2], [0, 0, 1.0]])
    translation = torch.tensor([0.0, 0.0, distance]) - rotation @ center
    poses = rigid(rotation, translation)
    drawn = []
    for part in torch.arange(len(poses)).split(36):
        out = fit.draw(Cameras(poses[part], K.expand(len(part), 3, 3), (side, side)))
        drawn.append(crops(torch.cat([out.rgb, out.alpha[..., None]], -1).permute(0, 3, 1, 2)))
    return rotation, torch.cat(drawn)


def bank_costs(bank: Float[Tensor, "b d"], pictures: Pictures) -> Float[Tensor, "n b"]:
    """Mean absolute difference of every picture to every view of the bank."""
    return torch.cdist(crops(pictures.picture), bank, p=1) / (CROP * CROP)


def relocated(fit: Fit) -> float:
    """Share of the frames (that show the whole subject) whose best of the bank's views lies near the solved pose."""
    rotations, bank = view_bank(fit)
    whole = fit.pictures.whole
    best = rotations[bank_costs(bank, fit.pictures[whole]).argmin(1)]
    # A window's camera looks past the subject's middle; the bank's cameras look at it.
    solved = looking_at_subject(fit)[whole]
    return float((rotation_angle_degrees(best, solved) < NEAR).float().mean())


@torch.no_grad()
def looking_at_subject(fit: Fit) -> Float[Tensor, "n 3 3"]:
    """Rotations of the solved cameras turned so that the subject's middle lies on the axis."""
    focal = fit.focals()
    return facing(fit.place[:, :2].detach(), focal).transpose(1, 2) @ fit.rotations()


def judge(fit: Fit, frames: Tensor, turn: Turn, rival_loss: float | None) -> Verdict:
    """All four tests on a solved clip of one subject. `frames`: the frames of its pictures in the clip."""
    loss = fit.score()
    flow = flow_agreement(fit.rotations().detach(), frames, turn)
    margin = rival_loss / loss if rival_loss is not None else float("inf")
    angle = azimuths(fit.rotations().detach())
    return verdict(flow, margin, overlap(fit), relocated(fit), "ccw" if angle[-1] > angle[0] else "cw")


def doubted(verdict: Verdict, reason: str) -> Verdict:
    """The same with one more doubt."""
    return replace(verdict, accepted=False, reason="; ".join(filter(None, (verdict.reason, reason))))


def widest(rotations: Float[Tensor, "n 3 3"]) -> float:
    """The largest angle between two of the cameras, degrees."""
    return max(float(rotation_angle_degrees(one, rotations).max()) for one in rotations)


def small_turn_doubted(verdict: Verdict, rotations: Float[Tensor, "n 3 3"]) -> Verdict:
    """The same, unless the view turns by so little that its body may do it instead, which pictures do not tell."""
    turn = widest(rotations)
    if turn >= SMALL_TURN:
        return verdict
    return doubted(verdict, f"what turns by {turn:.0f} degrees may be the subject before a still camera (--turn none)")


def judge_still(loss: float, rival_loss: float | None) -> Verdict:
    """A view found still, against the path that fits best of those that turn by more than a little: one that fits much
    better, but against the flow, is no proof that the view turns, and enough for doubt."""
    margin = rival_loss / loss if rival_loss is not None else float("inf")
    reason = "" if margin * STILL_MARGIN > 1 else "it may turn after all (--turn cw, ccw or none)"
    return Verdict(not reason, reason, 1.0, margin, 1.0, 1.0)


def verdict(flow: float, margin: float, shared: float, again: float, other: str = "cw or ccw") -> Verdict:
    """What the four figures say together. `other`: the sense, in words of --turn, that was not found."""
    doubts = []
    if flow < FLOW_AGREES:
        doubts.append(f"it may turn the other way (--turn {other})")
    if margin < MARGIN:
        doubts.append("another turn fits nearly as well (--turn, --sweep)")
    if shared < OVERLAP:
        doubts.append(outlines_doubt(shared))
    if again < RELOCATED:
        doubts.append("sides look alike, so frames may be mixed up (--sweep, --cameras)")
    return Verdict(not doubts, "; ".join(doubts), flow, margin, shared, again)


OUTLINES = "its outlines fit to"


def outlines_doubt(shared: float) -> str:
    """What is said of masks that the model covers to the share `shared` only."""
    return f"{OUTLINES} {100 * shared:.0f} % only (--fov, --masks)"


def without_outlines(reason: str) -> str:
    """A verdict's reason less its doubt of the outlines, for whoever has measured these anew."""
    return "; ".join(part for part in reason.split("; ") if not part.startswith(OUTLINES))
