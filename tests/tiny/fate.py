"""Where a run is to be stopped, and how: TINY_FATE=place=kill|full|interrupt|bug, for instance second:step3=kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def meet(place: str) -> None:
    where, _, what = os.environ.get("TINY_FATE", "").partition("=")
    if where != place:
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "full":
        Path("/dev/full").write_text("a write that a full disk refuses")
    elif what == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    elif what == "bug":
        raise ZeroDivisionError("a mistake of ours")
