"""Contrastive pre-training of a small CLIP on captioned images of the embedded world.

The images are those of the clean style, never of the tasks'. Captions are noisy: some say only what
kind of thing is shown, some name another thing of that kind. So the zero-shot classifier built from
the text tower works on the tasks, but not well, as CLIP's own does on the papers' tasks.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.loss import ClipLoss
from torch import nn
from torch.nn import functional as F

from task_arithmetic import embedded
from task_arithmetic.encoders import Preprocess, build_clip, build_tokenizer
from task_arithmetic.progress import Progress

# For each kind of image: captions that name the thing, and one that does not.
CAPTIONS = {
    "digits": (("the printed digit {}", "digit {} in ink"), "a printed digit"),
    "photos": (("a photograph of {}", "a detail of {}"), "a photograph"),
    "letters": (("the printed letter {}", "capital {} in ink"), "a printed letter"),
    "shapes": (("the figure of a {}", "one {} on paper"), "a geometric figure"),
    "colors": (("something {}", "patches of {} paint"), "patches of paint"),
    "counts": (("a {} of dots", "dots forming a {}"), "some dots"),
    "textures": (("a {} pattern", "{} fabric"), "a pattern"),
    "signs": (("a road sign meaning {}", "traffic symbol {}"), "a road sign"),
    "scenes": (("a view of {}", "the landscape shows {}"), "a landscape"),
}


def captioned_images(
    size: int, seed: int, generic: float, swapped: float
) -> tuple[np.ndarray, list[str]]:
    """Draw clean images of all kinds with noisy captions.

    Args:
        size: How many images, equally many of each kind.
        seed: Decides all of them.
        generic: Share of captions that say only what kind of thing is shown.
        swapped: Share of captions that name a random thing of that kind.

    Returns:
        Images, uint8 `[size, 32, 32, 3]`, and their captions.
    """
    rng = np.random.default_rng(seed)
    images, captions = [], []
    for task in embedded.TASKS:
        names = embedded.class_names(task)
        labels = rng.integers(len(names), size=size // len(embedded.TASKS))
        images.append(embedded.draw_clean(task, labels, rng))
        named, unnamed = CAPTIONS[task]
        told = np.where(
            rng.random(len(labels)) < swapped, rng.integers(len(names), size=len(labels)), labels
        )
        vague = rng.random(len(labels)) < generic
        template = rng.integers(len(named), size=len(labels))
        captions += [
            unnamed if vague[i] else named[template[i]].format(names[told[i]])
            for i in range(len(labels))
        ]
    return np.concatenate(images), captions


def pretrain(
    architecture: Mapping[str, Any],
    preprocess: Preprocess,
    settings: Mapping[str, Any],
    on_step: Callable[[int, float, nn.Module], bool | None] | None = None,
) -> nn.Module:
    """Pre-train a CLIP model from scratch.

    Args:
        architecture: An open_clip model configuration.
        preprocess: Preprocessing of images.
        settings: `images`, `passes`, `batch_size`, `learning_rate`, `weight_decay`,
            `warmup_steps`, `generic`, `swapped`, `precision` and `seed`.
        on_step: Called after every step with its number, its loss and the model as it is then; the
            training ends where it returns True.

    Returns:
        The trained model, in evaluation mode.
    """
    clip, tokenize = initial_clip(architecture, settings["seed"]), build_tokenizer(architecture)
    images, captions = captioned_images(
        settings["images"], settings["seed"], settings["generic"], settings["swapped"]
    )
    # The captions are few and repeat: each is tokenized once, and embedded once per batch.
    texts, caption = np.unique(captions, return_inverse=True)
    pixels, tokens = torch.from_numpy(images), tokenize(texts.tolist())
    caption = torch.from_numpy(caption)
    decayed = [parameter for parameter in clip.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in clip.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=settings["learning_rate"],
        weight_decay=settings["weight_decay"],
        betas=(0.9, 0.98),
        fused=True,
    )
    loss_of, batch_size = ClipLoss(), settings["batch_size"]
    per_pass = len(pixels) // batch_size
    total = per_pass * settings["passes"]
    bf16 = settings["precision"] == "bf16"
    with Progress("pre-training", total, "step") as progress:
        for step in range(total):
            if step % per_pass == 0:
                order = torch.randperm(len(pixels))
            chosen = order[step % per_pass * batch_size :][:batch_size]
            for group in optimizer.param_groups:
                group["lr"] = settings["learning_rate"] * _rate(
                    step, total, settings["warmup_steps"]
                )
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                seen = clip.encode_image(preprocess(pixels[chosen]))
                distinct, place = caption[chosen].unique(return_inverse=True)
                read = clip.encode_text(tokens[distinct])[place]
            loss = loss_of(
                F.normalize(seen.float(), dim=-1),
                F.normalize(read.float(), dim=-1),
                clip.logit_scale.exp(),
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                clip.logit_scale.clamp_(0, math.log(100))
            progress.advance(1, loss=loss.item())
            if on_step and on_step(step, loss.item(), clip):
                break
    return clip.eval()


def initial_clip(architecture: Mapping[str, Any], seed: int) -> nn.Module:
    """Build the CLIP model that pre-training starts from: random weights, decided by the seed."""
    torch.manual_seed(seed)
    return build_clip(architecture)


def _rate(step: int, total: int, warmup: int) -> float:
    """Return the share of the learning rate: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


# --- The tokenizer's merges ------------------------------------------------------------------


def merges_of(words: list[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges that make every given word one token.

    Args:
        words: Lower-case words.

    Returns:
        Pairs of symbols in order of priority.
    """
    merges: list[tuple[str, str]] = []
    for word in words:
        symbols = [*word[:-1], f"{word[-1]}</w>"]
        # What the merges of earlier words already join in this one, in order of their priority.
        for left, right in merges:
            symbols = _joined(symbols, left, right)
        while len(symbols) > 1:
            merges.append((symbols[0], symbols[1]))
            symbols = _joined(symbols, *merges[-1])
    return merges


def _joined(symbols: list[str], left: str, right: str) -> list[str]:
    joined: list[str] = []
    for symbol in symbols:
        if joined and joined[-1] == left and symbol == right:
            joined[-1] = left + right
        else:
            joined.append(symbol)
    return joined


def write_merges(path: Path | str) -> int:
    """Write the merges of all caption words in open_clip's format.

    Args:
        path: A `.gz` file.

    Returns:
        The size of the vocabulary: bytes, bytes at the end of a word, merges, two marks.
    """
    texts = [text for named, unnamed in CAPTIONS.values() for text in (*named, unnamed)]
    names = [name for task in embedded.TASKS for name in embedded.class_names(task)]
    words = sorted({word for text in (*texts, *names) for word in text.lower().split()} - {"{}"})
    merges = merges_of(words)
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    Path(path).write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return 512 + len(merges) + 2
