"""Generators that stand in for a video model where the true pictures are known: right ones, and ones spoilt on purpose.

For benchmarks/regenerate.py; `FOURDGEN_BENCH_GEN` names the folder bench/<scene>/gen whose pictures they show.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from fourdgen.data.cameras_io import read_camera_entries
from fourdgen.generate import Footage, Generated, Guide
from fourdgen.report import Reporter

GEN = "FOURDGEN_BENCH_GEN"
LIMB_SHARE = 0.2  # of the frames that get a wrong limb


class Perfect:
    """The true pictures of a path of bench/<scene>/gen."""

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        folder = Path(os.environ[GEN])
        entries = [e for e in read_camera_entries(folder / "transforms.json") if f"{e.clip}-{e.view}" == guide.name]
        pictures = [true_picture(folder / entry.file_path) for entry in sorted(entries, key=lambda e: e.frame or 0)]
        return Generated(torch.stack([rgb for rgb, _ in pictures]), torch.stack([alpha for _, alpha in pictures]))


class Damaged(Perfect):
    """The same, spoilt. `limbs` [t h w] says afterwards where a limb was added that is not there."""

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        made = super().generate(guide, footage, report)
        rgb, alpha, _ = damage(made.rgb, made.alpha, guide.seed)
        return Generated(rgb, alpha)


def true_picture(path: Path) -> tuple[Tensor, Tensor]:
    """Colour on white [h w 3] and alpha [h w] of an RGBA file."""
    image = torch.from_numpy(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32) / 255)
    alpha = image[..., 3]
    return image[..., [2, 1, 0]] * alpha[..., None] + 1 - alpha[..., None], alpha


def damage(rgb: Tensor, alpha: Tensor | None, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Colour gains of up to 8 %, brightness flicker of 3 %, warps of about 1.5 pixels of 256, and in a fifth of the
    frames a limb: a bar as long as a third of the subject, in one of its colours, that sticks out of it somewhere."""
    assert alpha is not None
    random = np.random.default_rng(seed)
    count, height, width = alpha.shape
    gain = torch.from_numpy(1 + random.uniform(-0.08, 0.08, 3)).float()
    colors, alphas, limbs = [], [], torch.zeros(count, height, width, dtype=torch.bool)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    wrong = random.permutation(count)[: round(LIMB_SHARE * count)]
    for t in range(count):
        rough = random.normal(0, 1, (2, height, width)).astype(np.float32)
        smooth = [cv2.GaussianBlur(part, (0, 0), width / 10) for part in rough]
        dx, dy = (1.5 * width / 256 * part / max(part.std(), 1e-9) for part in smooth)
        stacked = torch.cat([rgb[t], alpha[t][..., None]], -1).numpy()
        warped = cv2.remap(stacked, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        picture, mask = torch.from_numpy(warped[..., :3]), torch.from_numpy(warped[..., 3])
        straight = (picture - (1 - mask[..., None])) / mask.clamp_min(1e-3)[..., None]
        straight = straight * gain * (1 + 0.03 * float(random.normal()))
        picture = (straight * mask[..., None] + 1 - mask[..., None]).clamp(0, 1)
        if t in wrong and bool((mask > 0.5).any()):
            limb = torch.from_numpy(_limb(mask.numpy() > 0.5, random))
            rows, columns = (mask > 0.9).nonzero(as_tuple=True)
            where = int(random.integers(len(rows)))
            picture = torch.where(limb[..., None], straight[rows[where], columns[where]].clamp(0, 1), picture)
            limbs[t] = limb & (mask < 0.5)
            mask = torch.where(limb, torch.ones_like(mask), mask)
        colors.append(picture)
        alphas.append(mask)
    return torch.stack(colors), torch.stack(alphas), limbs


def _limb(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    size = max(np.ptp(rows), np.ptp(columns)) + 1
    middle = np.array([columns.mean(), rows.mean()])
    edge = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    points = max(edge, key=len)[:, 0]
    start = points[random.integers(len(points))].astype(float)
    away = start - middle
    away /= max(np.linalg.norm(away), 1e-6)
    end = start + size / 3 * away
    bar = np.zeros(mask.shape, np.uint8)
    first, last = (tuple(int(v) for v in place) for place in (start - 0.05 * size * away, end))
    cv2.line(bar, first, last, 1, max(3, round(0.08 * size)))
    return bar > 0
