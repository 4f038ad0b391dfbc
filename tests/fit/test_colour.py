"""Colour differences between clips."""

from __future__ import annotations

import torch

from fourdgen.fit.colour import ClipColors

CLIPS = ("a", "b", "c")
BEHIND = torch.tensor([0.2, 0.9, 0.4])


def picture() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(subject's colour times alpha, alpha, the same before BEHIND)."""
    random = torch.Generator().manual_seed(0)
    alpha = torch.rand(5, 6, generator=random)
    front = torch.rand(3, 5, 6, generator=random) * alpha
    return front, alpha, front + (1 - alpha) * BEHIND[:, None, None]


def test_it_starts_as_no_difference() -> None:
    _, alpha, rgb = picture()
    for clip in CLIPS:
        assert torch.allclose(ClipColors(CLIPS, "b").seen(clip, rgb, alpha, BEHIND), rgb, atol=1e-6)


def test_the_subject_changes_and_the_background_does_not() -> None:
    colors = ClipColors(CLIPS, "b")
    with torch.no_grad():
        colors.log_gain[1] = torch.tensor([0.5, 1.0, 2.0]).log()
        colors.bias[1] = torch.tensor([0.1, 0.0, -0.1])
    front, alpha, rgb = picture()
    gain, bias = colors.of("c")
    expected = gain[:, None, None] * front + bias[:, None, None] * alpha + (1 - alpha) * BEHIND[:, None, None]
    assert torch.allclose(colors.seen("c", rgb, alpha, BEHIND), expected, atol=1e-6)
    assert torch.allclose(colors.seen("a", rgb, alpha, BEHIND), rgb, atol=1e-6)


def test_the_reference_cannot_change() -> None:
    colors = ClipColors(CLIPS, "b")
    assert colors.log_gain.shape == (2, 3)
    with torch.no_grad():
        colors.log_gain.fill_(1.0)
    _, alpha, rgb = picture()
    assert torch.equal(colors.seen("b", rgb, alpha, BEHIND), rgb)
    assert float(colors.size()) == 6.0


def test_a_known_difference_is_found() -> None:
    colors = ClipColors(("a", "b"), "a")
    front, alpha, rgb = picture()
    target = 0.7 * front + 0.05 * alpha + (1 - alpha) * BEHIND[:, None, None]
    optimizer = torch.optim.Adam(colors.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        ((colors.seen("b", rgb, alpha, BEHIND) - target) ** 2).mean().backward()
        optimizer.step()
    gain, bias = colors.of("b")
    assert torch.allclose(gain, torch.full((3,), 0.7), atol=0.02)
    assert torch.allclose(bias, torch.full((3,), 0.05), atol=0.01)
