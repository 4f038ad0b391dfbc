"""The compiled CPU kernels (csrc/): loading, and the rasterizer as an autograd function.

Plain C entry points are called through ctypes, so that one wheel serves every Python version. The library is built
once per instruction set and the best one that the machine runs is loaded; FOURDGEN_ISA=base|avx2|avx512 overrides the
choice. Importing this module imports torch first: the kernels use torch's own OpenMP runtime.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sysconfig
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from fourdgen.report import FourdgenError

MAX_CHANNELS = 16  # of one rasterizer call
MAX_SIDE = 16384  # pixels; boxes are 16-bit
_KEPT_WORKSPACES = 8

_threads: int | None = None
_idle_workspaces: list[int] = []


class _Scene(Structure):
    _fields_ = [
        *((name, c_int32) for name in ("views", "surfels", "channels", "width", "height", "threads")),
        *((name, c_int32) for name in ("means_per_view", "quats_per_view", "colors_per_view")),
        *((name, c_void_p) for name in ("means", "quats", "scales", "opacities", "colors")),
        *((name, c_void_p) for name in ("cam_from_world", "K", "background")),
    ]


class _Images(Structure):
    _fields_ = [
        (name, c_void_p)
        for name in ("rgb", "alpha", "depth", "median", "normal", "median_id", "distortion", "weight", "pixels")
    ]


class _ImageGrads(Structure):
    _fields_ = [(name, c_void_p) for name in ("rgb", "alpha", "depth", "median", "normal", "distortion")]


class _SceneGrads(Structure):
    _fields_ = [
        (name, c_void_p)
        for name in ("means", "quats", "scales", "opacities", "colors", "cam_from_world", "K", "screen")
    ]


def _best_build() -> tuple[str, ...]:
    """Builds to try, best first."""
    wanted = os.environ.get("FOURDGEN_ISA")
    if wanted:
        return (wanted,)
    capability = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": ("avx512", "avx2", "base"), "AVX2": ("avx2", "base")}.get(capability, ("base",))


def _share_openmp() -> None:
    """Make the OpenMP runtime that torch loaded visible to the kernels, whatever its file is called."""
    beside_torch = Path(torch.__file__).parent / "lib"
    names = ("libgomp", "libomp", "libiomp")
    found = [path for path in sorted(beside_torch.glob("lib*omp*")) if path.name.startswith(names)]
    maps = Path("/proc/self/maps")
    if not found and maps.exists():  # a torch that uses the system's runtime
        mapped = {line.split()[-1] for line in maps.read_text().splitlines() if "omp" in line}
        found = [Path(path) for path in sorted(mapped) if Path(path).name.startswith(names)]
    for path in found[:1]:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    folders = [Path(__file__).parent, *(Path(sysconfig.get_path(key)) / "fourdgen" for key in ("platlib", "purelib"))]
    builds = _best_build()
    paths = [folder / f"_kernels_{build}.so" for build in builds for folder in folders]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        if os.environ.get("FOURDGEN_ISA"):
            return f"FOURDGEN_ISA asks for {builds[0]!r}, of which there is no build here (base, avx2 or avx512)"
        return f"the kernels are not built for this machine ({', '.join(builds)})"
    try:
        _share_openmp()
        library = ctypes.CDLL(str(path))
        _declare(library)
    except OSError as error:
        return f"{path.name} cannot be loaded: {error}"
    except AttributeError:
        return f"{path.name} was built from other sources than these"
    return library


def _declare(library: ctypes.CDLL) -> None:
    """Argument types, without which ctypes would cut pointers to 32 bits."""
    library.fourdgen_workspace_new.restype = c_void_p
    library.fourdgen_workspace_free.argtypes = [c_void_p]
    library.fourdgen_raster_forward.argtypes = [c_void_p, POINTER(_Scene), POINTER(_Images)]
    library.fourdgen_raster_backward.argtypes = [
        c_void_p, POINTER(_Scene), POINTER(_Images), POINTER(_ImageGrads), POINTER(_SceneGrads),
    ]  # fmt: skip
    library.fourdgen_skin_gaussian_forward.argtypes = [c_void_p] * 5 + [c_int] * 2 + [c_void_p] * 3 + [c_int]
    library.fourdgen_skin_gaussian_backward.argtypes = [c_void_p] * 5 + [c_int] * 2 + [c_void_p] * 7 + [c_int]
    library.fourdgen_pose_bones_forward.argtypes = [c_void_p] * 4 + [c_float] + [c_int] * 2 + [c_void_p]
    library.fourdgen_pose_bones_backward.argtypes = [c_void_p] * 4 + [c_float] + [c_int] * 2 + [c_void_p] * 4
    library.fourdgen_skin_sparse.argtypes = [
        c_void_p, c_void_p, c_int, c_void_p, c_int, c_void_p, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_int,
    ]  # fmt: skip
    library.fourdgen_normals_forward.argtypes = [c_void_p] * 5 + [c_int] * 3 + [c_void_p] + [c_int]
    library.fourdgen_normals_backward.argtypes = [c_void_p] * 5 + [c_int] * 3 + [c_void_p] * 6 + [c_int]
    library.fourdgen_opaque_bytes.argtypes = [c_void_p] * 3 + [c_int] * 2 + [c_void_p, c_int]
    library.fourdgen_fma.argtypes = [c_int64]
    library.fourdgen_l1_dssim.argtypes = [c_void_p] * 3 + [c_int] * 3 + [c_float] * 2 + [c_void_p] * 2 + [c_int]


def available() -> bool:
    """Whether the compiled kernels can be used."""
    return isinstance(_load(), ctypes.CDLL)


def serves(tensor: Tensor) -> bool:
    """Whether the compiled kernels can be used on a tensor: they can, and it is in main memory."""
    return tensor.device.type == "cpu" and available()


def why_not() -> str:
    """Why the kernels cannot be used, as a sentence without a full stop; empty when they can."""
    library = _load()
    return library if isinstance(library, str) else ""


def build() -> str:
    """Name of the loaded build: "avx512", "avx2" or "base"; empty when there is none."""
    library = _load()
    return "" if isinstance(library, str) else Path(library._name).stem.removeprefix("_kernels_")


def set_threads(threads: int | None) -> None:
    """Threads of all kernels; None follows `torch.get_num_threads()`. Results do not depend on it."""
    global _threads
    _threads = threads


def threads() -> int | None:
    """What `set_threads` was told last."""
    return _threads


def _thread_count(threads: int | None = None) -> int:
    return max(1, threads or _threads or torch.get_num_threads())


def _library() -> ctypes.CDLL:
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(library)
    return library


def _failure(outcome: int) -> FourdgenError:
    """What an outcome that is not 0 (csrc/parallel.h) says to the user."""
    return {
        1: FourdgenError(f"the rasterizer draws at most {MAX_CHANNELS} channels at a time"),
        2: FourdgenError(
            "the kernels ran out of memory", "draw fewer surfels, a smaller picture or fewer views at once"
        ),
        3: FourdgenError(
            "the surfels cover over 2 147 483 647 tiles of 64 x 64 pixels, more than can be numbered",
            "draw fewer surfels, a smaller picture or fewer views at once",
        ),
    }[outcome]


def _run(entry: str, *arguments: Any) -> None:
    """Calls an entry point that returns an outcome. Raises FourdgenError where the kernel could not do it."""
    outcome = getattr(_library(), entry)(*arguments)
    if outcome:
        raise _failure(outcome)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _ready(tensor: Tensor) -> Tensor:
    """As the kernels read it: float32, contiguous, on the CPU."""
    if tensor.device.type != "cpu":
        raise ValueError(f"the compiled kernels need tensors on the CPU, not on {tensor.device}")
    return tensor.to(torch.float32).contiguous()


class _Workspace:
    """State of one forward call. It goes back to a pool with the last reference, which autograd's graph holds."""

    def __init__(self) -> None:
        self.handle: int | None = None
        try:
            self.handle = _idle_workspaces.pop()
        except IndexError:
            self.handle = _library().fourdgen_workspace_new()
            if self.handle is None:
                raise _failure(2) from None

    def __del__(self) -> None:
        if self.handle is None:
            return
        if len(_idle_workspaces) < _KEPT_WORKSPACES:
            _idle_workspaces.append(self.handle)
        else:
            _library().fourdgen_workspace_free(self.handle)


class RasterImages(NamedTuple):
    """Planar outputs of `raster`; `weight` and `pixels` have no gradient."""

    rgb: Float[Tensor, "v c h w"]
    alpha: Float[Tensor, "v h w"]
    depth: Float[Tensor, "v h w"]
    median: Float[Tensor, "v h w"]
    normal: Float[Tensor, "v 3 h w"]
    distortion: Float[Tensor, "v h w"] | None
    weight: Float[Tensor, "v n"] | None
    pixels: Float[Tensor, "v n"] | None


class _Options(NamedTuple):
    size: tuple[int, int]
    background: Tensor | None
    distortion: bool
    weights: bool
    screen_grad: Tensor | None
    threads: int


class _Raster(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: _Options, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        means, quats, _, _, colors, _, K = inputs
        views, channels = len(K), colors.shape[-1]
        (width, height), background = options.size, options.background
        planes = means.new_empty(channels + 6 + options.distortion, views, height, width)
        rgb = planes[:channels].view(views, channels, height, width)
        normal = planes[channels : channels + 3].view(views, 3, height, width)
        alpha, depth, median = planes[channels + 3 : channels + 6]
        distortion = planes[channels + 6] if options.distortion else None
        median_id = torch.empty(views, height, width, dtype=torch.int32)
        count = means.shape[-2]
        weight, pixels = means.new_empty(2, views, count) if options.weights else (None, None)
        scene = _Scene(
            views, count, channels, width, height, options.threads, means.dim() == 3, quats.dim() == 3,
            colors.dim() == 3, *map(_address, (*inputs, background)),
        )  # fmt: skip
        outputs = (rgb, alpha, depth, median, normal, distortion, weight, pixels)
        images = _Images(*map(_address, (*outputs[:5], median_id, *outputs[5:])))
        ctx.workspace = _Workspace()
        _run("fourdgen_raster_forward", ctx.workspace.handle, byref(scene), byref(images))
        ctx.save_for_backward(*inputs, background, rgb, alpha, depth, median, normal, median_id, distortion)
        ctx.options, ctx.scene = options, scene
        ctx.set_materialize_grads(False)
        if weight is not None:
            ctx.mark_non_differentiable(weight, pixels)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, (rgb, alpha, depth, median, normal, median_id, distortion) = saved[:7], saved[8:]
        images = _Images(*map(_address, (rgb, alpha, depth, median, normal, median_id, distortion)))
        kept = [None if g is None else g.contiguous() for g in grads[:6]]
        out = [torch.empty_like(x) if need else None for x, need in zip(inputs, ctx.needs_input_grad[1:], strict=True)]
        _run(
            "fourdgen_raster_backward", ctx.workspace.handle, byref(ctx.scene), byref(images),
            byref(_ImageGrads(*map(_address, kept))),
            byref(_SceneGrads(*map(_address, (*out, ctx.options.screen_grad)))),
        )  # fmt: skip
        return (None, *out)


def raster(
    means: Float[Tensor, "n 3"] | Float[Tensor, "v n 3"],
    quats: Float[Tensor, "n 4"] | Float[Tensor, "v n 4"],
    scales: Float[Tensor, "n 2"],
    opacities: Float[Tensor, "n"],
    colors: Float[Tensor, "n c"] | Float[Tensor, "v n c"],
    cam_from_world: Float[Tensor, "v 4 4"],
    K: Float[Tensor, "v 3 3"],
    size: tuple[int, int],
    background: Float[Tensor, "c"] | Float[Tensor, "v c"] | None = None,
    distortion: bool = False,
    weights: bool = False,
    screen_grad: Float[Tensor, "n"] | None = None,
    threads: int | None = None,
) -> RasterImages:
    """Surfels as v cameras see them (see fourdgen.render for what the pictures hold). At most MAX_CHANNELS channels.

    `size` is (w, h). Gradients go to everything but `background`, and only what asks for one is computed. `weights`
    adds per surfel and view the blend weight alpha T summed over pixels, and the number of pixels with alpha >= 1/255
    (hidden ones count). `screen_grad` is added to in place by the backward pass: the length of the loss's gradient with
    respect to a shift of the surfel's picture, per pixel of shift, summed over the views. A surfel with anything not
    finite is left out and gets zero gradient. Results are bitwise the same for any number of threads.
    """
    count, views = means.shape[-2], len(K)
    inputs = [_ready(t) for t in (means, quats, scales, opacities, colors, cam_from_world, K)]
    expected = ((count, 3), (count, 4), (count, 2), (count,), (count, colors.shape[-1]), (views, 4, 4), (views, 3, 3))
    for i, (tensor, shape) in enumerate(zip(inputs, expected, strict=True)):
        per_view = (views, *shape) if i in (0, 1, 4) else shape
        if tensor.shape not in (shape, per_view):
            raise ValueError(f"input {i} of the rasterizer has shape {tuple(tensor.shape)}, expected {shape}")
    if not 1 <= colors.shape[-1] <= MAX_CHANNELS or min(size) < 1 or max(size) > MAX_SIDE:
        raise ValueError(f"{colors.shape[-1]} channels at {size} pixels: at most {MAX_CHANNELS} at {MAX_SIDE}")
    fits = screen_grad is None or (screen_grad.shape == (count,) and screen_grad.dtype == torch.float32)
    if screen_grad is not None and not (fits and screen_grad.is_contiguous()):
        raise ValueError(f"screen_grad must be a contiguous float32 tensor of {count} numbers")
    if background is not None:
        background = _ready(background.detach().expand(views, colors.shape[-1]))
    options = _Options(size, background, distortion, weights, screen_grad, _thread_count(threads))
    return RasterImages(*_Raster.apply(options, *inputs))


def opaque_bytes(
    rgb: Float[Tensor, "3 h w"],
    alpha: Float[Tensor, "h w"],
    background: Float[Tensor, "3"],
    threads: int | None = None,
) -> UInt8[Tensor, "h w 3"]:
    """A drawing (colours multiplied by alpha) before a background, as bytes."""
    rgb, alpha, background = (_ready(t.detach()) for t in (rgb, alpha, background))
    height, width = alpha.shape
    if tuple(rgb.shape) != (3, height, width) or tuple(background.shape) != (3,):
        raise ValueError(f"shapes do not match: {tuple(rgb.shape)}, {tuple(alpha.shape)}, {tuple(background.shape)}")
    out = torch.empty(height, width, 3, dtype=torch.uint8)
    inputs = map(_address, (rgb, alpha, background))
    _run("fourdgen_opaque_bytes", *inputs, height, width, _address(out), _thread_count(threads))
    return out
