"""Architectures: open_clip's model configurations by name, without importing open_clip.

The workflow looks names up whenever it is read, and open_clip brings torch along.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from task_arithmetic.artifacts import PipelineError

QUICKGELU = "-quickgelu"


@cache
def architecture_files() -> dict[str, Path]:
    """Return the files of the model configurations that come with open_clip, by name."""
    folder = Path(find_spec("open_clip").origin).parent / "model_configs"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def resolve_architecture(architecture: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the open_clip model configuration that is meant.

    Args:
        architecture: A configuration (`embed_dim`, `vision_cfg`, `text_cfg`), or the name of one
            that comes with open_clip, such as `ViT-B-32-quickgelu`.

    Returns:
        The configuration.

    Raises:
        PipelineError: If open_clip has none of that name, or the model is not one that this project
            can use: an image tower and a text tower that need nothing but open_clip.
    """
    if not isinstance(architecture, str):
        return dict(architecture)
    files = architecture_files()
    if architecture not in files:
        near = difflib.get_close_matches(architecture, files, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"such as {', '.join(files)}"
        raise PipelineError(
            f"architecture: expected an open_clip model name, found '{architecture}'; {hint}"
        )
    found = json.loads(files[architecture].read_text(encoding="utf-8"))
    if "multimodal_cfg" in found or "hf_tokenizer_name" in found["text_cfg"]:
        raise PipelineError(
            f"architecture: {architecture} has a caption decoder, or a tokenizer that open_clip "
            "does not bring along; expected a model with an image tower and open_clip's own text "
            "tower"
        )
    return found


def quick_gelu(architecture: Mapping[str, Any]) -> bool:
    """Return whether an architecture's activation is QuickGELU, x·σ(1.702x), in place of GELU."""
    return bool(architecture.get("quick_gelu", False))


def default_preprocess(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return CLIP's own preprocessing at the image size of an architecture.

    Args:
        architecture: An open_clip model configuration.

    Returns:
        `size`, `mean`, `std`, `interpolation` and `resize_mode`.
    """
    size = architecture["vision_cfg"].get("image_size", 224)
    return {
        "size": size if isinstance(size, int) else size[0],
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
