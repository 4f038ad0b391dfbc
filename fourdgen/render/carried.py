"""A scene lives in main memory; a rasterizer may want it elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

from fourdgen.geometry.camera import Cameras
from fourdgen.render import BUILD_HINT, SILENT, Rasterizer, RenderOut, pick
from fourdgen.report import Reporter


def rasterizer_on(device: str, name: str = "auto", report: Reporter = SILENT) -> Rasterizer:
    """The rasterizer of that name for a device; it takes and gives tensors in main memory. Raises FourdgenError.

    `report` is warned when the slow way without compiled kernels is all that there is.
    """
    rasterizer = pick(name, device)
    if rasterizer.name == "tiled":
        report.warn(f"the tiled rasterizer draws, hundreds of times slower than the compiled ones: {BUILD_HINT}")
    return rasterizer if device == "cpu" else Carried(rasterizer, device)


@dataclass(frozen=True)
class Carried:
    """A Rasterizer that carries what it is given to a device, and its pictures back. Gradients take the same way."""

    rasterizer: Rasterizer
    device: str

    @property
    def name(self) -> str:
        return self.rasterizer.name

    def __call__(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        cameras: Cameras,
        background: Tensor | None = None,
        distortion: bool = False,
        weights: bool = False,
        screen_grad: Tensor | None = None,
    ) -> RenderOut:
        if screen_grad is not None:
            raise ValueError("the screen gradient is added to in place: it must be where the rasterizer is")
        out = self.rasterizer(
            means.to(self.device),
            quats.to(self.device),
            scales.to(self.device),
            opacities.to(self.device),
            colors.to(self.device),
            replace(cameras, cam_from_world=cameras.cam_from_world.to(self.device), K=cameras.K.to(self.device)),
            background=None if background is None else background.to(self.device),
            distortion=distortion,
            weights=weights,
        )
        parts = {field.name: getattr(out, field.name) for field in fields(out)}
        return replace(out, **{k: v.cpu() for k, v in parts.items() if isinstance(v, Tensor)})
