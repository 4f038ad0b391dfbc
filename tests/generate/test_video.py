"""The video generator with Wan's real classes at tiny size: sizes, frame counts, what stays, what goes wrong."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fourdgen.generate import Guide, make_generator, model_files, video
from fourdgen.generate.video import CERTAIN, Keeper, Video
from fourdgen.geometry.camera import Cameras, intrinsics
from fourdgen.report import FourdgenError, Silent
from tests.generate.tiny_wan import save_tiny

FRAMES, WIDTH, HEIGHT = 7, 56, 40  # neither 4k + 1 nor multiples of 16


def guide(seed: int = 0) -> Guide:
    """Noise whose left half is certain, the next quarter half so, the rest unknown."""
    random = torch.Generator().manual_seed(3)
    cameras = Cameras(
        torch.eye(4).expand(FRAMES, 4, 4), intrinsics(40.0, (WIDTH, HEIGHT)).expand(FRAMES, 3, 3), (WIDTH, HEIGHT)
    )
    confidence = torch.zeros(FRAMES, HEIGHT, WIDTH)
    confidence[..., : WIDTH // 2] = 1.0
    confidence[..., WIDTH // 2 : 3 * WIDTH // 4] = 0.65
    return Guide(
        "view", "a", torch.arange(FRAMES) / 12, cameras, torch.rand(FRAMES, HEIGHT, WIDTH, 3, generator=random),
        torch.ones(FRAMES, HEIGHT, WIDTH), confidence, torch.rand(30, 50, 3, generator=random), seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("vace"), "vace")


def small(model: Path, **options: object) -> Video:
    return Video(**{"model": str(model), "steps": 2, "side": 48, "window": 5, "overlap": 2, **options})


def test_certain_pixels_come_back_exactly_and_free_ones_are_made(model: Path) -> None:
    given = guide()
    made = small(model).generate(given, None, Silent()).rgb  # type: ignore[arg-type]
    assert made.shape == given.rgb.shape
    assert torch.isfinite(made).all() and float(made.min()) >= 0 and float(made.max()) <= 1
    certain = given.confidence >= CERTAIN
    assert torch.equal(made[certain], given.rgb[certain])
    free = given.confidence < 0.5
    assert float((made[free] - given.rgb[free]).abs().mean()) > 0.05
    between = given.confidence == 0.65
    assert (
        0
        < float((made[between] - given.rgb[between]).abs().mean())
        < float((made[free] - given.rgb[free]).abs().mean())
    )


def test_the_seed_decides(model: Path) -> None:
    one, same, other = (small(model).generate(guide(seed), None, Silent()).rgb for seed in (1, 1, 2))  # type: ignore[arg-type]
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_plain_image_to_video_model_is_held_by_its_latents(tmp_path: Path) -> None:
    given = guide()
    made = small(save_tiny(tmp_path, "i2v")).generate(given, None, Silent()).rgb  # type: ignore[arg-type]
    certain = given.confidence >= CERTAIN
    assert torch.equal(made[certain], given.rgb[certain])


def test_everything_that_is_passed_is_taken_by_the_real_pipelines() -> None:
    """The signatures of the installed diffusers, so that the published models are driven as the tiny ones are."""
    from diffusers import WanImageToVideoPipeline, WanVACEPipeline

    common = {
        *("prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale"),
        *("generator", "latents", "output_type", "callback_on_step_end", "callback_on_step_end_tensor_inputs"),
    }
    assert set(inspect.signature(WanVACEPipeline.__call__).parameters) >= common | {"video", "mask", "reference_images"}
    assert set(inspect.signature(WanImageToVideoPipeline.__call__).parameters) >= common | {"image"}


@pytest.mark.parametrize(("frames", "fitting"), [(1, 1), (2, 5), (5, 5), (6, 9), (81, 81), (82, 85)])
def test_frame_counts_become_the_next_4k_plus_1(frames: int, fitting: int) -> None:
    assert video.fitting_frames(frames) == fitting


def test_sizes_are_multiples_of_16_with_about_the_same_proportions() -> None:
    assert video.fitting_size((256, 256), 480) == (480, 480)
    assert video.fitting_size((1920, 1080), 480) == (480, 272)
    assert video.fitting_size((30, 100), 48) == (16, 48)


@pytest.mark.parametrize("frames", [5, 6, 81, 82, 200])
def test_windows_cover_every_frame_and_overlap(frames: int) -> None:
    parts = list(video.windows(frames, 81, 17))
    assert parts[0][0] == 0 and parts[-1][1] == frames
    assert all(later[0] == earlier[1] - 17 for earlier, later in pairwise(parts))
    assert all(0 < last - first <= 81 for first, last in parts)


def test_latents_are_held_above_their_release_level_and_no_longer() -> None:
    class Scheduler:
        sigmas = torch.tensor([1.0, 0.5, 0.1, 0.0])

    random = torch.Generator().manual_seed(0)
    clean, noise, now = (torch.randn(1, 2, 1, 1, 3, generator=random) for _ in range(3))
    held = torch.tensor([[[1.0, 0.6, 0.2]]])  # released at noise levels 0, 0.28, never held
    keep = Keeper(clean, noise, held)
    first, second = keep(Scheduler, 0, now), keep(Scheduler, 1, now)
    assert torch.allclose(first[..., :2], (0.5 * clean + 0.5 * noise)[..., :2]) and torch.equal(
        first[..., 2], now[..., 2]
    )
    assert torch.allclose(second[..., 0], (0.9 * clean + 0.1 * noise)[..., 0])
    assert torch.equal(second[..., 1:], now[..., 1:])
    assert torch.allclose(keep(Scheduler, 2, now)[..., 0], clean[..., 0])


def test_a_reference_latent_is_left_alone() -> None:
    class Scheduler:
        sigmas = torch.tensor([1.0, 0.0])

    now = torch.randn(1, 2, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    out = Keeper(torch.zeros(1, 2, 2, 1, 1), torch.zeros(1, 2, 2, 1, 1), torch.ones(2, 1, 1), 1)(Scheduler, 0, now)
    assert torch.equal(out[:, :, 0], now[:, :, 0]) and bool((out[:, :, 1:] == 0).all())


def test_one_clear_error_where_weights_are_missing(tmp_path: Path) -> None:
    with pytest.raises(FourdgenError, match="no weights of a video model here"):
        small(tmp_path).generate(guide(), None, Silent())  # type: ignore[arg-type]
    with pytest.raises(FourdgenError, match="needs a model"):
        make_generator("video", {})
    for wrong in ("/nowhere", "./models/wan", "wan"):  # said before a reconstruction begins, not after it
        with pytest.raises(FourdgenError, match="no such folder"):
            make_generator("video", {"model": wrong})
    make_generator("video", {"model": "nobody/has-this", "fetch": True})
    with pytest.raises(FourdgenError, match="the hub's cache does not have it"):
        make_generator("video", {"model": "nobody/has-this"})


@pytest.mark.parametrize("lost", ["vae", "vae/*.safetensors", "transformer/2.safetensors"])
def test_a_model_that_came_only_half_is_found_out_before_any_work(lost: str, model: Path, tmp_path: Path) -> None:
    half = shutil.copytree(model, tmp_path / "half")
    if lost == "vae":
        shutil.rmtree(half / "vae")
    elif lost.startswith("vae"):
        next((half / "vae").glob("*.safetensors")).unlink()
    else:
        listing = {"weight_map": {"x": "diffusion_pytorch_model.safetensors", "y": "2.safetensors"}}
        (half / "transformer" / "w.safetensors.index.json").write_text(json.dumps(listing))
    with pytest.raises(FourdgenError, match=f"there is no {re.escape(lost)}"):
        small(half)


def test_a_model_needs_diffusers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FourdgenError, match="needs diffusers"):
        small(model)


def cached(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub name whose files lie in a cache of the hub."""
    from huggingface_hub import constants

    repo = cache / "models--some--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123")
    shutil.copytree(model, repo / "snapshots" / "0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(video, "_loaded", {})
    return "some/tiny"


def test_a_hub_model_that_is_here_is_used_and_its_memory_counted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = cached(model, tmp_path, monkeypatch)
    loaded = video.load(name, "cpu", False, Silent())
    assert type(loaded).__name__ == "WanVACEPipeline"
    monkeypatch.setattr(video, "_loaded", {})
    monkeypatch.setattr(model_files, "free_gigabytes", lambda: 0.5 * model_files.weight_gigabytes(model, 4))
    with pytest.raises(FourdgenError, match=r"needs about .* GB of memory"):
        video.load(name, "cpu", False, Silent())


def test_a_model_is_fetched_only_when_allowed_and_after_a_look_at_its_size(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers
    import huggingface_hub

    sizes = {"vae/a.safetensors": 2**30, "text_encoder/b.safetensors": 3 * 2**30, "vae/a.fp16.safetensors": 2**40,
             "all.safetensors": 2**40}  # fmt: skip
    files = [SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=files))
    asked: list[str] = []
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", lambda name: asked.append(name) or str(model))
    monkeypatch.setattr(video, "_loaded", {})
    monkeypatch.setattr(model_files, "free_gigabytes", lambda: 5.0)
    with pytest.raises(FourdgenError, match=r"needs about 5 GB of memory"):  # 1.3 times 4 GB
        video.load("nobody/has-this", "cpu", True, Silent())
    assert not asked
    monkeypatch.setattr(model_files, "free_gigabytes", lambda: 6.0)
    notes: list[str] = []
    telling = SimpleNamespace(emit=lambda event, text="", **_: notes.append(text), warn=notes.append)
    assert type(video.load("nobody/has-this", "cpu", True, telling)).__name__ == "WanVACEPipeline"
    assert asked == ["nobody/has-this"] and notes[0] == "fetching nobody/has-this from the hub, about 4.0 GB"

    def down(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", down)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", down)
    monkeypatch.setattr(video, "_loaded", {})
    with pytest.raises(FourdgenError, match=r"could not be fetched from the hub \(no route\)"):
        video.load("nobody/has-this", "cpu", True, telling)
    assert notes[-1] == "fetching nobody/has-this from the hub, of unknown size"


def test_one_clear_error_where_memory_is_short(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "free_gigabytes", lambda: 0.5 * model_files.weight_gigabytes(model, 4))
    monkeypatch.setattr(video, "_loaded", {})
    with pytest.raises(FourdgenError, match=r"needs about .* GB of memory"):
        small(model).generate(guide(), None, Silent())  # type: ignore[arg-type]


def test_memory_that_runs_out_in_the_middle_is_one_clear_error(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(video, "encode", full)
    with pytest.raises(FourdgenError, match="ran out of memory at 48 pixels"):
        small(model).generate(guide(), None, Silent())  # type: ignore[arg-type]
