"""Encoders: open_clip models in and out of encoder files, preprocessing, zero-shot heads.

An encoder file is a safetensors file with the whole CLIP model under its own names (`visual.*` is
the image tower). Its metadata says how to build the model and how to prepare an image for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import open_clip
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from task_arithmetic.artifacts import PipelineError, read_tensors, write_tensors

IMAGE_TOWER = "visual."
# Files that an architecture names, such as a tokenizer's merges, are relative to this folder.
ASSET_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Preprocess:
    """How uint8 RGB images become the image tower's input.

    Attributes:
        size: Height and width in pixels.
        mean: Mean per channel, of values in [0, 1].
        std: Standard deviation per channel.
        interpolation: How images of another size are resized.
        resize_mode: `shortest`: the shorter side is resized to `size` and the centre cut out.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Return the preprocessing with the given fields, whose values may come from JSON."""
        return cls(**fields | {key: tuple(fields[key]) for key in ("mean", "std")})

    def __call__(
        self, images: UInt8[Tensor, "batch height width 3"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Normalize images of the right size, on the device they are on."""
        mean, std = (torch.tensor(values, device=images.device) for values in (self.mean, self.std))
        return ((images / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Encoder:
    """A pre-trained image tower θ0, in evaluation mode, and its preprocessing."""

    model: str
    tower: nn.Module
    preprocess: Preprocess


def build_clip(architecture: Mapping[str, Any]) -> nn.Module:
    """Build an open_clip model, with random weights, in evaluation mode.

    Args:
        architecture: An open_clip model configuration (`embed_dim`, `vision_cfg`, `text_cfg`).

    Returns:
        The CLIP model.
    """
    options = dict(architecture)
    separate_text = options.pop("custom_text", False)
    family = open_clip.model.CustomTextCLIP if separate_text else open_clip.model.CLIP
    return family(**options).eval()


def build_tokenizer(architecture: Mapping[str, Any]) -> Callable[[Sequence[str]], Tensor]:
    """Build open_clip's tokenizer for an architecture.

    Args:
        architecture: An open_clip model configuration; `text_cfg.tokenizer_kwargs.bpe_path` is
            relative to the workflow folder.

    Returns:
        A function from texts to token indices `[texts, context_length]`.
    """
    text = architecture["text_cfg"]
    options = dict(text.get("tokenizer_kwargs", {}))
    if "bpe_path" in options:
        options["bpe_path"] = str(ASSET_ROOT / options["bpe_path"])
    length = text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    return open_clip.tokenizer.SimpleTokenizer(context_length=length, **options)


def save_encoder(
    path: Path | str,
    model: str,
    clip: nn.Module,
    architecture: Mapping[str, Any],
    preprocess: Preprocess,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write a CLIP model atomically as an encoder file.

    Args:
        path: The file to write.
        model: The model's name in the experiment.
        clip: The model.
        architecture: Its open_clip configuration.
        preprocess: Its preprocessing.
        more: More metadata, texts by name.
    """
    metadata = {
        **(more or {}),
        "kind": "encoder",
        "model": model,
        "architecture": json.dumps(architecture, sort_keys=True),
        "preprocess": json.dumps(asdict(preprocess)),
    }
    write_tensors(path, clip.state_dict(), metadata)


def load_clip(path: Path | str) -> tuple[nn.Module, Callable[[Sequence[str]], Tensor]]:
    """Load the whole CLIP model of an encoder file and its tokenizer.

    Args:
        path: The encoder file.

    Returns:
        The model in evaluation mode, and a function from texts to token indices.

    Raises:
        PipelineError: If the file is damaged or does not fit its architecture.
    """
    state, metadata = read_tensors(path, kind="encoder")
    architecture = json.loads(metadata["architecture"])
    clip = build_clip(architecture)
    load_state(clip, state, path)
    return clip, build_tokenizer(architecture)


def load_encoder(path: Path | str) -> Encoder:
    """Load the image tower of an encoder file.

    Args:
        path: The encoder file.

    Returns:
        The tower and its preprocessing.

    Raises:
        PipelineError: If the file is damaged or does not fit its architecture.
    """
    state, metadata = read_tensors(path, kind="encoder", prefix=IMAGE_TOWER)
    tower = build_clip(json.loads(metadata["architecture"])).visual
    load_state(tower, state, path)
    return Encoder(metadata["model"], tower, read_preprocess(metadata))


def read_parameters(path: Path | str) -> dict[str, Tensor]:
    """Read the image tower's parameters θ0 from an encoder file without building the model."""
    return read_tensors(path, kind="encoder", prefix=IMAGE_TOWER)[0]


@torch.no_grad()
def zero_shot_head(
    clip: nn.Module,
    tokenize: Callable[[Sequence[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str],
) -> Float[Tensor, "classes features"]:
    """Build the frozen zero-shot classifier of a task from the text tower.

    Each class is the normalized mean, over prompt templates, of normalized text embeddings, times
    100 (CLIP's logit scale), as in the papers' code.

    Args:
        clip: The CLIP model.
        tokenize: Its tokenizer.
        class_names: Class names by index.
        templates: Prompts with `{}` where the class name goes.

    Returns:
        W, with logits = W·z/‖z‖ for image features z.
    """
    rows = []
    for name in class_names:
        tokens = tokenize([template.format(name) for template in templates])
        embeddings = F.normalize(clip.encode_text(tokens), dim=-1)  # [templates, features]
        rows.append(F.normalize(embeddings.mean(dim=0), dim=-1))
    return 100 * torch.stack(rows)


def save_head(
    path: Path | str, weight: Tensor, model: str, dataset: str, class_names: Sequence[str]
) -> None:
    """Write a zero-shot head atomically."""
    metadata = {
        "kind": "head",
        "model": model,
        "dataset": dataset,
        "class_names": json.dumps(list(class_names), ensure_ascii=False),
    }
    write_tensors(path, {"weight": weight}, metadata)


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path | str) -> None:
    """Load named tensors into a module that has exactly these.

    Args:
        module: The module.
        state: Tensors by name.
        path: Where they come from, for the message.

    Raises:
        PipelineError: If names or shapes differ; the message names them.
    """
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        details = " ".join(str(error).split())
        raise PipelineError(f"{path}: does not fit its architecture: {details}") from error


def read_preprocess(metadata: Mapping[str, str]) -> Preprocess:
    """Return the preprocessing that an encoder file's metadata describe."""
    return Preprocess.of(json.loads(metadata["preprocess"]))
