"""Masks of clips that were filmed, rendered or generated before one plain colour.

What makes this more than a threshold: parts of the subject may have the background's colour (white on white), gaps such
as the one between two legs show the background without touching the border of the picture, and every edge pixel is a
mixture that would leave a fringe around the subject if it were taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

# Colour distances are the largest difference of the three channels, 0..255.
NEAR = 10  # a border pixel this close to the median colour counts as background
BORDER_SHARE = 0.80  # of all border pixels of the clip must be background: the rest may be a subject that is cut off
FRAME_SHARE = 0.55  # the same in every single frame
CLEAN = 5  # background away from any edge is at least this exact
SPOILT = 0.06  # of the contrast within four pixels is added to that by compression
EXACT = 2  # the middle of a gap, two pixels from its edges, is off by this at most
SMALL = 4  # is added to that for the smallest gaps
BLURRED = 7  # a gap that is too narrow to have a middle is off by this much more than clean background
SHARP = 0.35  # of the subject's usual distance from the background: a wide gap's edge, for the most part
SHARPER = 0.5  # the same for a narrow gap, all around
LEAST_GAP = 6  # pixels: smaller enclosed spots are filled
SPECK = 0.0015  # of the subject's area: what is smaller and stands apart is dirt


@dataclass(frozen=True)
class Plain:
    """A background: its colour (RGB 0..255), how far from it a pixel may be and still belong to it, and usually is."""

    color: Float[np.ndarray, "3"]
    tolerance: float
    noise: float


def find_plain(rgb: UInt8[np.ndarray, "t h w 3"]) -> Plain | None:
    """The one colour that the border of the pictures has all through the clip, or None."""
    border = _border_pixels(rgb)
    color = np.median(border.reshape(-1, 3), 0)
    distance = np.abs(border - color).max(-1)
    near = distance <= NEAR
    if near.mean() < BORDER_SHARE or near.mean(1).min() < FRAME_SHARE:
        return None
    usual, most = np.percentile(distance[near], [75, 99.5])
    return Plain(color.astype(np.float32), max(float(CLEAN), 2 + 1.5 * float(most)), float(usual))


def _border_pixels(rgb: UInt8[np.ndarray, "t h w 3"]) -> Int[np.ndarray, "t n 3"]:
    height, width = rgb.shape[1:3]
    rim = max(2, round(0.015 * max(height, width)))
    mask = np.ones((height, width), bool)
    mask[rim:-rim, rim:-rim] = False
    return rgb[:, mask].astype(np.int16)


def cut_plain(
    picture: UInt8[np.ndarray, "h w 3"], plain: Plain
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """(colour without the background's share, soft mask) of one frame."""
    away = picture.astype(np.float32) - plain.color
    distance = np.abs(away).max(-1)
    subject = _solid(distance, plain)
    if not subject.any():
        return picture, subject.astype(np.uint8)
    return _soft_edge(picture, away, distance, subject, plain)


def _solid(distance: Float[np.ndarray, "h w"], plain: Plain) -> Bool[np.ndarray, "h w"]:
    """The subject including its soft rim: all that is neither background nor a gap that shows background."""
    # Compression spoils the background next to strong edges and nowhere else, so the tolerance follows the contrast
    # around: a white part of the subject is off by as little, but not beside such an edge.
    contrast = cv2.dilate(distance, np.ones((9, 9), np.uint8))
    like = (distance <= plain.tolerance + SPOILT * contrast).astype(np.uint8)
    # Opening closes channels of one or two pixels through which the flood would leak into white parts of the subject.
    # The frame is enlarged so that background cut into corners by the subject still meets the border.
    roomy = cv2.copyMakeBorder(like, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=1)
    opened = cv2.morphologyEx(roomy, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    opened[[0, -1]] = opened[:, [0, -1]] = 1
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    labels = labels[2:-2, 2:-2]
    background = labels == _label_of_corner(opened)
    sure = distance[like == 0]
    strength = float(np.median(sure)) if len(sure) else 0.0
    for label in range(1, count):
        if label != _label_of_corner(opened) and stats[label, cv2.CC_STAT_AREA] >= LEAST_GAP:
            x, y, w, h = (int(v) for v in stats[label, :4])
            x0, y0, x1, y1 = max(x - 3, 0), max(y - 3, 0), x + w - 1, y + h - 1  # the box, one pixel wider, no frame
            spot = labels[y0:y1, x0:x1] == label
            if _is_gap(spot, distance[y0:y1, x0:x1], contrast[y0:y1, x0:x1], plain, strength):
                background[y0:y1, x0:x1] |= spot
    return _without_specks(~_grown_within(background, like > 0))


def _label_of_corner(opened: UInt8[np.ndarray, "h w"]) -> int:
    return 1 if opened[0, 0] else 0  # Components are numbered in reading order, and the corner was made background.


def _grown_within(region: Bool[np.ndarray, "h w"], limit: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The region, two pixels larger where `limit` allows it: what opening took away comes back."""
    grown = region.astype(np.uint8)
    for _ in range(2):
        grown = cv2.dilate(grown, np.ones((3, 3), np.uint8)) & limit.astype(np.uint8)
    return (grown > 0) | region


def _without_specks(subject: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(subject.astype(np.uint8), connectivity=8)
    if count <= 2:
        return subject
    area = stats[:, cv2.CC_STAT_AREA]
    return np.isin(labels, [i for i in range(1, count) if area[i] >= SPECK * area[1:].max()])


def _is_gap(
    spot: Bool[np.ndarray, "h w"],
    distance: Float[np.ndarray, "h w"],
    contrast: Float[np.ndarray, "h w"],
    plain: Plain,
    strength: float,
) -> bool:
    """Whether an enclosed spot of background colour shows the background rather than a white part of the subject.

    Background is flat: away from edges it has its exact colour, which shaded or painted white hardly ever has. A gap
    ends at an edge of the subject all around, where a white part borders on the background with next to no edge.
    """
    if spot.sum() < LEAST_GAP:
        return False
    solid = spot.astype(np.uint8)
    rim = spot & (cv2.erode(solid, np.ones((3, 3), np.uint8)) == 0)
    middle = distance[cv2.erode(solid, np.ones((5, 5), np.uint8)) > 0]
    if len(middle) >= LEAST_GAP:
        # The smaller a gap, the more of its middle lies within the same compression block as its edges.
        exact = EXACT + plain.noise + SMALL * float(np.exp(-len(middle) / 40))
        return float(np.median(middle)) <= exact and float(np.percentile(contrast[rim], 25)) >= SHARP * strength
    flat = float(np.median(distance[spot])) <= plain.tolerance + BLURRED
    return flat and float(np.percentile(contrast[rim], 10)) >= SHARPER * strength


def _soft_edge(
    picture: UInt8[np.ndarray, "h w 3"],
    away: Float[np.ndarray, "h w 3"],
    distance: Float[np.ndarray, "h w"],
    subject: Bool[np.ndarray, "h w"],
    plain: Plain,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
    """Alpha of the rim by I = a F + (1 - a) B with F from the subject's inside, and the rim's colour without B."""
    solid = subject.astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    inside = cv2.erode(solid, kernel, iterations=2, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    rim = (cv2.dilate(solid, kernel) > 0) & (inside == 0)
    geometric = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), 0.8)
    alpha = solid.astype(np.float32)
    rows, columns = np.nonzero(rim)
    front = _front_colors(away, distance, inside, rows, columns)
    strength = (front * front).sum(-1)
    mixed = (away[rows, columns] * front).sum(-1) / np.maximum(strength, 1.0)
    trust = strength / (strength + 40.0**2)
    alpha[rows, columns] = (trust * mixed + (1 - trust) * geometric[rows, columns]).clip(0, 1)
    color = picture.astype(np.float32)
    a = alpha[rows, columns][:, None]
    unmixed = away[rows, columns] / np.maximum(a, 0.05)
    share = ((a - 0.1) / 0.4).clip(0, 1)  # a faint pixel says little about the colour behind it
    color[rows, columns] = plain.color + share * unmixed + (1 - share) * front
    return color.clip(0, 255).round().astype(np.uint8), (alpha * 255).round().astype(np.uint8)


def _front_colors(
    away: Float[np.ndarray, "h w 3"],
    distance: Float[np.ndarray, "h w"],
    inside: UInt8[np.ndarray, "h w"],
    rows: Int[np.ndarray, "n"],
    columns: Int[np.ndarray, "n"],
) -> Float[np.ndarray, "n 3"]:
    """The subject's own colour (minus the background's) behind each rim pixel.

    The nearest pixel of the inside; where the part is too thin to have an inside, the strongest pixel around.
    """
    height, width = distance.shape
    best_row, best_column, best = rows.copy(), columns.copy(), distance[rows, columns]
    for dy in (-2, -1, 0, 1, 2):
        for dx in (-2, -1, 0, 1, 2):
            r, c = (rows + dy).clip(0, height - 1), (columns + dx).clip(0, width - 1)
            better = distance[r, c] > best
            best_row, best_column = np.where(better, r, best_row), np.where(better, c, best_column)
            best = np.where(better, distance[r, c], best)
    front = away[best_row, best_column]
    if inside.any():
        reach, labels = cv2.distanceTransformWithLabels(
            1 - inside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        seat = np.zeros((labels.max() + 1, 2), np.int64)
        there = np.nonzero(inside)
        seat[labels[there]] = np.stack(there, -1)
        nearest = seat[labels[rows, columns]]
        near = reach[rows, columns] <= 4.5
        front = np.where(near[:, None], away[nearest[:, 0], nearest[:, 1]], front)
    return front
