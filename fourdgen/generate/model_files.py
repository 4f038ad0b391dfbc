"""The files of a video model: whether they are all here, fetching them, and whether they fit into memory."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import torch

from fourdgen import disk, weights
from fourdgen.report import FourdgenError, Reporter

HEADROOM = 1.3  # of memory beyond the weights, for activations


def whole_folder(model: str) -> Path:
    """Where a model's files lie on this machine: its own folder, or the hub's cache for a hub name. Never downloads.

    Raises FourdgenError where they are not there or not all there.
    """
    try:
        folder = weights.model_folder(model)
    except (OSError, ValueError) as error:
        raise no_weights(model, "the hub's cache does not have it") from error
    missing = _missing(folder)
    if missing:
        raise no_weights(model, f"there is no {missing}")
    return folder


def _missing(folder: Path) -> str:
    """The first thing that a pipeline's folder lacks: a copy or a download may have stopped half-way."""
    index = disk.read_json(folder / "model_index.json")
    if not index:
        return "model_index.json"
    for name, kind in index.items():
        if not isinstance(kind, list) or not kind[0]:
            continue
        part = folder / name
        shards = {file for path in part.glob("*.index.json") for file in _shards(path)}
        gone = sorted(file for file in shards if not (part / file).is_file())
        if gone:
            return f"{name}/{gone[0]}"
        # A folder with config.json is a network; tokenizers and schedulers have other files.
        has_weights = any(path.is_file() for ending in ("safetensors", "bin") for path in part.glob(f"*.{ending}"))
        if not part.is_dir() or ((part / "config.json").is_file() and not has_weights):
            return name if not part.is_dir() else f"{name}/*.safetensors"
    return ""


def _shards(listing: Path) -> set[str]:
    return set(disk.read_json(listing).get("weight_map", {}).values())


def fetched(model: str, device: str, report: Reporter) -> Path:
    """Downloads a hub model into the hub's cache and says so. Raises FourdgenError: not enough memory for it, as far as
    its size is known before; the download failed."""
    import diffusers

    size = hub_gigabytes(model)
    if size is not None:  # files hold at most four bytes a number, so that this is the least that it needs
        _check_room(HEADROOM * size * precision(device).itemsize / 4)
    said = "of unknown size" if size is None else f"about {size:.1f} GB"
    report.emit("note", text=f"fetching {model} from the hub, {said}")
    try:
        return Path(diffusers.DiffusionPipeline.download(model))
    except Exception as error:  # the network, the hub and the disk all have errors of their own
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise FourdgenError(
            f"{model}: could not be fetched from the hub ({first_line(cause)})",
            "try again, what has come is kept; or name a folder that save_pretrained wrote",
        ) from error


def hub_gigabytes(model: str) -> float | None:
    """How much the weights of a hub model take there; None where the hub does not say."""
    from huggingface_hub import HfApi

    try:
        files = HfApi().model_info(model, files_metadata=True, timeout=10).siblings or []
    except Exception:  # whatever the reason is, the download will say it
        return None
    # A pipeline's parts lie in folders of their own; those in half precision, which lie beside some, are not taken.
    taken = [file for file in files if re.fullmatch(r"[^/]+/[^/]+(?<!fp16)(?<!bf16)\.safetensors", file.rfilename)]
    return sum(file.size or 0 for file in taken) / 2**30 or None


def files_of(model: str) -> str:
    """Names, sizes and times of a model folder's files, as one hash; of a hub name nothing, it stands for itself."""
    local = Path(model).expanduser()
    found = [
        [path.relative_to(local).as_posix(), (stat := path.stat()).st_size, stat.st_mtime_ns]
        for path in sorted(local.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest() if found else ""


def weight_gigabytes(folder: Path, bytes_each: int) -> float:
    """Memory that the numbers in a model's folder take at this many bytes each, whatever they take in the files."""
    from safetensors import safe_open

    count = 0
    for path in folder.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count * bytes_each / 2**30


def precision(device: str) -> torch.dtype:
    return torch.bfloat16 if device == "cuda" else torch.float32


def check_memory(folder: Path, device: str) -> None:
    """Raises FourdgenError where this machine's free memory is less than the weights and some room to work in."""
    _check_room(HEADROOM * weight_gigabytes(folder, precision(device).itemsize))


def _check_room(need: float) -> None:
    free = free_gigabytes()
    if free is not None and need > free:
        raise no_memory(f"needs about {need:.0f} GB of memory, {free:.0f} GB are free")


def free_gigabytes() -> float | None:
    """Memory that can be had without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return found[0] / 2**20 if found else None


def no_memory(said: str) -> FourdgenError:
    return FourdgenError(
        f"the video model {said}",
        "use a smaller model, --set regenerate.side=320, shorter windows, or --set regenerate.generator=fill",
    )


def no_weights(model: str, said: str) -> FourdgenError:
    return FourdgenError(
        f"{model}: no weights of a video model here ({said})",
        "give a folder that save_pretrained wrote, or allow the download with --set regenerate.fetch=true",
    )


def no_diffusers() -> FourdgenError:
    return FourdgenError(
        "the generator video needs diffusers", "pip install 'fourdgen[neural]', or --set regenerate.generator=fill"
    )


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
