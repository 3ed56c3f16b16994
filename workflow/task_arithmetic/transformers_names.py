"""The names that the transformers library gives to CLIP's tensors, and open_clip's for the same.

Besides other names, transformers keeps queries, keys and values apart, which open_clip stacks, and
transposes the two projections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# The one name of a vision tower that no text tower has.
VISION_MARK = "embeddings.patch_embedding.weight"
TEXT_MARK = "embeddings.token_embedding.weight"
NAMES = {
    r"^embeddings\.class_embedding$": "class_embedding",
    r"^embeddings\.patch_embedding\.": "conv1.",
    r"^embeddings\.token_embedding\.": "token_embedding.",
    r"^embeddings\.position_embedding\.weight$": "positional_embedding",
    r"^pre_layrnorm\.": "ln_pre.",  # sic
    r"^post_layernorm\.": "ln_post.",
    r"^final_layer_norm\.": "ln_final.",
    r"^encoder\.layers\.": "transformer.resblocks.",
    r"\.layer_norm([12])\.": r".ln_\1.",
    r"\.mlp\.fc1\.": ".mlp.c_fc.",
    r"\.mlp\.fc2\.": ".mlp.c_proj.",
    r"\.self_attn\.out_proj\.": ".attn.out_proj.",
}
ATTENTION_PART = re.compile(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)$")


def is_transformers(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether tensors have the names of a CLIP vision tower of transformers."""
    return any(name.endswith(VISION_MARK) for name in tensors)


def vision_tower(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a vision tower open_clip's names.

    Args:
        tensors: A vision tower of transformers, with or without its projection, or a whole CLIP.

    Returns:
        The image tower's tensors; without `proj` if the projection is not there.
    """
    return _tower(tensors, VISION_MARK) | _projection(tensors, "visual_projection.weight", "proj")


def clip_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a whole CLIP model open_clip's names.

    Args:
        tensors: A CLIP model of transformers.

    Returns:
        The tensors of an open_clip model, as far as they are there.
    """
    return {
        **{f"visual.{name}": tensor for name, tensor in vision_tower(tensors).items()},
        **_tower(tensors, TEXT_MARK),
        **_projection(tensors, "text_projection.weight", "text_projection"),
        **{name: tensors[name] for name in ("logit_scale",) if name in tensors},
    }


def _projection(tensors: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    found = [tensor for name, tensor in tensors.items() if name.endswith(theirs)]
    return {ours: found[0].T} if found else {}


def _tower(tensors: Mapping[str, Tensor], mark: str) -> dict[str, Tensor]:
    """Return the tensors beside the marking one, under open_clip's names."""
    prefixes = [name.removesuffix(mark) for name in tensors if name.endswith(mark)]
    named: dict[str, Tensor] = {}
    attention: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not prefixes or not name.startswith(prefixes[0]) or "projection" in name:
            continue
        if name.endswith("position_ids"):  # a constant
            continue
        name = name.removeprefix(prefixes[0])
        for theirs, ours in NAMES.items():
            name = re.sub(theirs, ours, name)
        if part := ATTENTION_PART.match(name):
            attention.setdefault((part[1], part[3]), {})[part[2]] = tensor
        else:
            named[name] = tensor
    for (block, kind), parts in attention.items():
        if set(parts) == set("qkv"):
            named[f"{block}.attn.in_proj_{kind}"] = torch.cat([parts[part] for part in "qkv"])
        else:
            named |= {f"{block}.self_attn.{part}_proj.{kind}": parts[part] for part in parts}
    return named
