"""The generator that drives a video diffusion model: diffusers' Wan VACE, or a plain image-to-video pipeline of Wan.

VACE takes a video, a mask and a reference picture. It binarises the mask, never pastes known pixels back, and wants
4k + 1 frames in sizes that are multiples of 16; all of that is dealt with here. Confident pixels of the guide are put
back at every step of the sampling, at the step's own noise level, and once more at the end. A pixel of confidence c
above 0.5 is let go at noise level 0.7 (1 - c), below that the model is free from the start (docs/method.md 11.4;
Lugmayr et al. 2022, RePaint).
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourdgen.generate import Footage, Generated, Guide
from fourdgen.generate.model_files import (
    check_memory,
    fetched,
    first_line,
    no_diffusers,
    no_memory,
    no_weights,
    precision,
    whole_folder,
)
from fourdgen.report import FourdgenError, Reporter

GUIDING = 0.5  # confidence above which a pixel holds the model back
CERTAIN = 0.8  # confidence from which the guide's pixel is in the result exactly
RELEASE = 0.7  # noise level at which a pixel of confidence 0 would be let go
PIPELINES = ("WanVACEPipeline", "WanImageToVideoPipeline")


@dataclass(frozen=True)
class Video:
    """Settings of the generator `video`. `model`: a folder that `save_pretrained` wrote, or a name on the hub."""

    model: str = ""
    prompt: str = "a high quality video of one subject before a plain white background, sharp, consistent"
    avoid: str = "blurry, distorted, extra limbs, text, watermark, cluttered background"
    steps: int = 30
    guidance: float = 5.0
    side: int = 480  # longer side of what the model makes, pixels; its pictures are scaled back to the guide's
    window: int = 81  # frames of one pass; longer clips go in overlapping windows
    overlap: int = 17  # frames that a window takes over from the one before
    fetch: bool = False  # allow downloading a hub model that is not on this machine
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.model:
            raise FourdgenError(
                "the generator video needs a model",
                "--set regenerate.model=FOLDER, or a hub name such as Wan-AI/Wan2.1-VACE-1.3B-diffusers",
            )
        if not Path(self.model).expanduser().is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.model):
            raise FourdgenError(
                f"{self.model}: there is no such folder",
                "name one that save_pretrained wrote, or a hub name such as Wan-AI/Wan2.1-VACE-1.3B-diffusers",
            )
        if importlib.util.find_spec("diffusers") is None:
            raise no_diffusers()
        if not self.fetch:
            whole_folder(self.model)
        if not 0 < self.overlap < self.window:
            raise FourdgenError(f"{self.overlap} frames of overlap in windows of {self.window}", "overlap less")

    def generate(self, guide: Guide, footage: Footage, report: Reporter) -> Generated:
        """Colour on white; silhouettes are left to be found. Raises FourdgenError: no weights, no memory."""
        pipe = load(self.model, self.device, self.fetch, report)
        rgb, confidence = guide.rgb.clone(), guide.confidence.clone()
        try:
            for number, (first, last) in enumerate(windows(len(guide), self.window, self.overlap)):
                part = replace(
                    guide, seconds=guide.seconds[first:last], cameras=guide.cameras[first:last], rgb=rgb[first:last],
                    alpha=guide.alpha[first:last], confidence=confidence[first:last],
                )  # fmt: skip
                rgb[first:last] = self._window(pipe, part, guide.seed + number, report)
                confidence[first:last] = 1.0  # what is made is known to the next window
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            raise no_memory(f"ran out of memory at {self.side} pixels and {self.window} frames") from error
        return Generated(rgb)

    def _window(self, pipe: Any, guide: Guide, seed: int, report: Reporter) -> Float[Tensor, "t h w 3"]:
        """One pass of the model over a stretch of frames, in the guide's size."""
        size = fitting_size(guide.cameras.size, self.side, _multiple(pipe))
        count = fitting_frames(len(guide))
        rgb = _resized(_held(guide.rgb, count), size)
        certainty = _resized(_held(guide.confidence[..., None], count), size)[..., 0].clamp(0, 1)
        generator = torch.Generator().manual_seed(seed)
        clean = encode(pipe, rgb)
        held = latent_confidence(certainty, clean.shape[-3:])
        references = 1 if type(pipe).__name__ == "WanVACEPipeline" else 0
        noise = torch.randn(1, clean.shape[1], clean.shape[2] + references, *clean.shape[3:], generator=generator)
        keep = Keeper(clean, noise[:, :, references:], held, references)

        def step_end(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            report.emit("step", stage="regenerate", step=step + 1, total=pipe.num_timesteps)
            return {"latents": keep(pipe.scheduler, step, tensors["latents"])}

        made = pipe(
            prompt=self.prompt, negative_prompt=self.avoid, height=size[1], width=size[0], num_frames=count,
            num_inference_steps=self.steps, guidance_scale=self.guidance, generator=generator, latents=noise,
            output_type="pt", callback_on_step_end=step_end, callback_on_step_end_tensor_inputs=["latents"],
            **_conditions(pipe, guide, rgb, certainty),
        ).frames[0]  # fmt: skip
        video = made.float().cpu().permute(0, 2, 3, 1)[: len(guide)]
        return put_back(guide, _resized(video, guide.cameras.size).clamp(0, 1))


def put_back(guide: Guide, made: Float[Tensor, "t h w 3"]) -> Float[Tensor, "t h w 3"]:
    """The guide's own pixels where it is certain, the model's below a confidence of 0.5, a blend between."""
    share = ((guide.confidence - GUIDING) / (CERTAIN - GUIDING)).clamp(0, 1)[..., None]
    return torch.where(share >= 1, guide.rgb, share * guide.rgb + (1 - share) * made)


@dataclass(frozen=True)
class Keeper:
    """Puts known latents back after a step, at the noise level that the step has reached.

    `held`: confidence per latent, 0 where the model is free. `references`: leading latent frames that are not video.
    """

    clean: Float[Tensor, "1 c t h w"]
    noise: Float[Tensor, "1 c t h w"]
    held: Float[Tensor, "t h w"]
    references: int = 0

    def __call__(self, scheduler: Any, step: int, latents: Float[Tensor, "1 c f h w"]) -> Float[Tensor, "1 c f h w"]:
        level = float(scheduler.sigmas[step + 1])
        known = ((1 - level) * self.clean + level * self.noise).to(latents)
        holding = (self.held > GUIDING) & (level >= RELEASE * (1 - self.held))
        video = torch.where(holding.to(latents.device), known, latents[:, :, self.references :])
        return torch.cat([latents[:, :, : self.references], video], 2)


def windows(frames: int, window: int, overlap: int) -> Iterator[tuple[int, int]]:
    """[first, last) of passes that cover all frames; each but the first begins with `overlap` of the one before."""
    first = 0
    while True:
        last = min(first + window, frames)
        yield first, last
        if last == frames:
            return
        first = last - overlap


def fitting_frames(frames: int) -> int:
    """The next number of the form 4k + 1."""
    return (frames + 2) // 4 * 4 + 1


def fitting_size(size: tuple[int, int], side: int, multiple: int = 16) -> tuple[int, int]:
    """(w, h) near `side` on the longer side with about the same proportions, both multiples of `multiple`."""
    scale = (side or max(size)) / max(size)
    width, height = (max(multiple, round(length * scale / multiple) * multiple) for length in size)
    return width, height


def latent_confidence(
    confidence: Float[Tensor, "t h w"], shape: torch.Size | tuple[int, ...]
) -> Float[Tensor, "f h w"]:
    """The least confidence of the pixels behind each latent. The first frame has its own latent, then each four."""
    frames, height, width = shape
    least = -F.adaptive_max_pool2d(-confidence[:, None], (height, width))[:, 0]
    rest = least[1:].unflatten(0, (frames - 1, -1)).amin(1) if frames > 1 else least[1:]
    return torch.cat([least[:1], rest])


@torch.no_grad()
def encode(pipe: Any, rgb: Float[Tensor, "t h w 3"]) -> Float[Tensor, "1 c f h w"]:
    """A video 0..1 as the normalised latents that the model denoises."""
    vae = pipe.vae
    device = pipe._execution_device
    video = (2 * rgb - 1).permute(3, 0, 1, 2)[None].to(device=device, dtype=vae.dtype)
    vae.to(device)
    latents = vae.encode(video).latent_dist.mode().float().cpu()
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    return (latents - mean) / std


def _conditions(
    pipe: Any, guide: Guide, rgb: Float[Tensor, "t h w 3"], certainty: Float[Tensor, "t h w"]
) -> dict[str, Any]:
    if type(pipe).__name__ == "WanVACEPipeline":
        free = (certainty <= GUIDING)[..., None].float()
        grey = rgb * (1 - free) + 0.5 * free  # what the model is to make is grey in its video, as it was trained
        return {
            "video": [_picture(frame) for frame in grey],
            "mask": [_picture(frame.expand(-1, -1, 3)) for frame in free],
            "reference_images": [_picture(guide.reference)],
        }
    return {"image": _picture(rgb[0])}


def _picture(values: Float[Tensor, "h w 3"]) -> Any:
    from PIL import Image

    return Image.fromarray((values.clamp(0, 1) * 255).round().byte().cpu().numpy())


def _held(values: Float[Tensor, "t h w c"], count: int) -> Float[Tensor, "n h w c"]:
    """The last frame again, up to a number of frames."""
    return torch.cat([values, values[-1:].expand(count - len(values), -1, -1, -1)])


def _resized(values: Float[Tensor, "t h w c"], size: tuple[int, int]) -> Float[Tensor, "t h2 w2 c"]:
    if values.shape[1:3] == (size[1], size[0]):
        return values
    planes = values.permute(0, 3, 1, 2)
    return F.interpolate(planes, (size[1], size[0]), mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def _multiple(pipe: Any) -> int:
    """Pixels that a side of the model's pictures is a multiple of: 16 for the published models."""
    return int(pipe.vae_scale_factor_spatial * pipe.transformer.config.patch_size[1])


# --------------------------------------------------------------------------------------------------------------
# Loading.

_loaded: dict[tuple[str, str], Any] = {}  # the views of one call share a model that takes minutes to load


def load(model: str, device: str, fetch: bool, report: Reporter) -> Any:
    """The pipeline of a folder or hub name. Raises FourdgenError: not installed, no weights, too little memory."""
    if (model, device) in _loaded:
        return _loaded[model, device]
    try:
        import diffusers
    except ImportError as error:
        raise no_diffusers() from error
    _quiet(diffusers)
    try:
        folder = whole_folder(model)
    except FourdgenError:
        if not fetch or Path(model).expanduser().is_dir():
            raise
        folder = fetched(model, device, report)
    check_memory(folder, device)
    report.emit("note", text=f"loading {model}")
    try:
        with (
            warnings.catch_warnings()
        ):  # the argument has another name in the newest version, which still takes this one
            warnings.simplefilter("ignore", FutureWarning)
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                str(folder), local_files_only=True, torch_dtype=precision(device)
            )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise no_memory("does not fit into memory") from error
    except (OSError, ValueError) as error:
        raise no_weights(model, first_line(error)) from error
    _check_kind(pipe, model)
    pipe.set_progress_bar_config(disable=True)
    if device == "cuda":
        pipe.enable_model_cpu_offload()  # one component at a time on the device
    _loaded.clear()
    _loaded[model, device] = pipe
    return pipe


def _quiet(diffusers: Any) -> None:
    """What these libraries print while they load is not meant for the person at the terminal."""
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _check_kind(pipe: Any, model: str) -> None:
    name = type(pipe).__name__
    takes: Callable[..., Any] = type(pipe).__call__
    if name not in PIPELINES or "callback_on_step_end" not in inspect.signature(takes).parameters:
        raise FourdgenError(f"{model}: a {name}, which cannot be guided here", f"use a {' or a '.join(PIPELINES)}")
    if "sigmas" not in vars(pipe.scheduler) or not _is_flow(pipe.scheduler):
        raise FourdgenError(
            f"{model}: its scheduler has other noise levels than a flow", "use the model's own scheduler"
        )


def _is_flow(scheduler: Any) -> bool:
    """Whether noisy = (1 - sigma) clean + sigma noise, as in flow matching."""
    config = scheduler.config
    return type(scheduler).__name__.startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))
