"""Wan's own classes at a size that a CPU runs in seconds: random weights and a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path

import torch


def save_tiny(folder: Path, kind: str) -> Path:
    """Writes a pipeline ("vace" or "i2v") as `from_pretrained` reads it."""
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        WanImageToVideoPipeline,
        WanTransformer3DModel,
        WanVACEPipeline,
        WanVACETransformer3DModel,
    )
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "video": 4, "of": 5, "one": 6, "subject": 7}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=16
    )
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
    )
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.1, 0.0, 0.2], latents_std=[1.5, 0.8, 1.0, 2.0],
    )  # fmt: skip
    shape = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "out_channels": 4, "text_dim": 16,
        "freq_dim": 8, "ffn_dim": 16, "num_layers": 2, "rope_max_seq_len": 32,
    }  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    if kind == "vace":
        transformer = WanVACETransformer3DModel(in_channels=4, vace_layers=[0], vace_in_channels=2 * 4 + 64, **shape)
        pipe = WanVACEPipeline(tokenizer, text_encoder, vae, scheduler, transformer)
    else:
        transformer = WanTransformer3DModel(in_channels=2 * 4 + 4, image_dim=None, **shape)
        pipe = WanImageToVideoPipeline(tokenizer, text_encoder, vae, scheduler, transformer=transformer)
    pipe.save_pretrained(folder)
    return folder
