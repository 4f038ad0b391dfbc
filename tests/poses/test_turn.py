"""The sign of a turn from flow, and stillness."""

from __future__ import annotations

import pytest
import torch

from fourdgen.poses.turn import turn_from_flow
from tests.poses.subject import film, orbit


@pytest.mark.parametrize("sign", [1, -1])
def test_flow_tells_the_sign_of_the_turn(sign: int) -> None:
    turn = turn_from_flow(*film(orbit(sign * torch.linspace(0, 90, 14))))
    assert turn.sign == sign
    clear = turn.clear
    assert float(clear.float().mean()) > 0.7
    assert float((torch.sign(turn.rate[clear]) == sign).float().mean()) > 0.9
    # The rate is in radians a frame, roughly: good for stop-and-go, not for the sweep.
    assert 0.3 < float(turn.rate.abs().median()) / (torch.pi / 2 / 13) < 1.6


def test_a_view_that_does_not_turn_has_no_rate() -> None:
    turn = turn_from_flow(*film(orbit(torch.zeros(6))))
    assert not bool(turn.clear.any())
    assert turn.sign == 0


def test_the_curve_follows_a_stop() -> None:
    azimuth = torch.cat([torch.linspace(0, 50, 9), torch.full((6,), 50.0), torch.linspace(57, 100, 8)])
    turn = turn_from_flow(*film(orbit(azimuth)))
    curve = turn.curve(torch.arange(len(azimuth)))
    moving, standing = float(curve[8] - curve[0]) / 8, float(curve[14] - curve[9]) / 5
    assert abs(standing) < 0.15 * moving
