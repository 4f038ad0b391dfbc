"""LPIPS (Zhang et al. 2018), version 0.1 on AlexNet, with the published weights.

Our own small network; the weights file is a pickle of numpy arrays and is read by an unpickler that can make nothing
else. It must hold exactly the arrays that the network needs.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fourdgen import weights
from fourdgen.report import FourdgenError

WEIGHTS = "lpips-alex"
NET = "AlexNet"  # what figures of LPIPS are said to be by; other networks give other figures
LEAST_SIDE = 32  # pixels: below this AlexNet has no pixel left
_CHANNELS = (64, 192, 384, 256, 256)
_KERNELS = (11, 5, 3, 3, 3)


class Lpips(nn.Module):
    """Distance of pictures in the features of AlexNet's five convolutions, weighted per channel."""

    def __init__(self) -> None:
        super().__init__()
        sources = (3, *_CHANNELS[:-1])
        self.trunk = nn.ModuleList(
            nn.Conv2d(
                source, channels, kernel, stride=4 if kernel == 11 else 1, padding=kernel // 2 if kernel < 11 else 2
            )
            for source, channels, kernel in zip(sources, _CHANNELS, _KERNELS)
        )
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in _CHANNELS)
        self.shift: Tensor
        self.scale: Tensor
        # The trunk's input statistics, in the range -1..1 that LPIPS takes.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)

    def features(self, pictures: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c h2 w2"]]:
        """Features after each convolution, of unit length per pixel."""
        x = (2 * pictures - 1 - self.shift) / self.scale
        found = []
        for i, convolution in enumerate(self.trunk):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(convolution(x))
            found.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
        return found

    def forward(self, pictures: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b"]:
        """Distance per pair of pictures (sRGB 0..1, at least 32 pixels a side); 0 for equal ones."""
        total = torch.zeros(len(pictures))
        for a, b, head in zip(self.features(pictures), self.features(truth), self.heads):
            total = total + head((a - b) ** 2).mean(dim=(1, 2, 3))
        return total


def load() -> Lpips | None:
    """The network with its published weights, or None where they are not on this machine."""
    path = weights.locate(WEIGHTS)
    return None if path is None else from_file(path)


def from_file(path: Path) -> Lpips:
    """Raises FourdgenError for a file that is not exactly these weights."""
    try:
        with path.open("rb") as file:
            data = _ArraysOnly(file).load()
        network = Lpips()
        network.load_state_dict(_state(data), strict=True)
    except (pickle.UnpicklingError, KeyError, ValueError, TypeError, RuntimeError, EOFError, AttributeError) as error:
        raise FourdgenError(
            f"{path}: not the weights of LPIPS ({error})", "delete it, then `fourdgen doctor --fetch`"
        ) from None
    return network.eval().requires_grad_(False)


class _ArraysOnly(pickle.Unpickler):
    """Makes numpy arrays and the containers around them; a pickle that asks for anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            # The function behind every pickled array. It moved in numpy 2, so it is taken from an array's own pickle.
            return np.empty(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _state(data: Mapping[str, Any]) -> dict[str, Tensor]:
    """The file's arrays under our names. It keeps kernels as [height width in out], torch as [out in height width]."""
    state = {}
    trunk = dict(data["AlexNet_0"])
    for i in range(len(_CHANNELS)):
        layer, head = dict(trunk.pop(f"Conv_{i}")), data[f"NetLinLayer_{i}"]
        state[f"trunk.{i}.weight"], state[f"trunk.{i}.bias"] = (
            _kernel(layer["kernel"]),
            torch.from_numpy(layer["bias"].copy()),
        )
        state[f"heads.{i}.weight"] = _kernel(head["Conv_0"]["kernel"])
    known = {"AlexNet_0", *(f"NetLinLayer_{i}" for i in range(len(_CHANNELS)))}
    if trunk or set(data) != known:
        raise ValueError("it holds further arrays")
    return state


def _kernel(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1)))
