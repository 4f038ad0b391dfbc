"""What this machine offers a command: the device it computes on, and how many threads."""

from __future__ import annotations

import os

from fourdgen.config import did_you_mean
from fourdgen.report import FourdgenError

DEVICES = ("auto", "cpu", "cuda")


def check_device(name: str) -> None:
    """Raises FourdgenError for a name that is no device anywhere."""
    if name not in DEVICES:
        guess = did_you_mean(name, DEVICES)
        raise FourdgenError(f"--device {name}: no such device{guess}", f"devices: {', '.join(DEVICES)}")


def pick_device(name: str) -> str:
    """cpu or cuda; `auto` takes cuda where it works. Raises FourdgenError when the name cannot work here."""
    check_device(name)
    if name == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise FourdgenError(
            "--device cuda: no GPU that PyTorch can use", "`fourdgen doctor` says more; or --device cpu"
        )
    return "cpu"


def machine_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the cores that this process may use."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    if text.isdigit() and int(text) > 0:
        return int(text)
    return cores()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(threads: int | None) -> None:
    """CPU threads of torch and of the kernels; None leaves them as they are. Raises FourdgenError for less than 1."""
    if threads is None:
        return
    if threads < 1:
        raise FourdgenError(f"--threads {threads}: at least 1 is needed")
    import torch

    from fourdgen import native

    torch.set_num_threads(threads)
    if native.available():
        native.set_threads(threads)
