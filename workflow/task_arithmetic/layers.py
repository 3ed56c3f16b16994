"""Layers: which block of an image tower a parameter belongs to, read from its name. No torch here.

Open_clip's towers number their blocks in three ways (ViT, ResNet, and ConvNeXt from timm). What has
no number stands before the blocks (the stem) or after them (the output).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

STEM, OUTPUT = "stem", "output"
_BLOCK = re.compile(r"(?:resblocks\.(\d+)|layer(\d+)\.(\d+)|stages\.(\d+)\.blocks\.(\d+))\.")
_OUTPUT = re.compile(r"^(?:trunk\.)?(?:ln_post|proj|attnpool|norm|head)(?:\.|$)")


def layers_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Group parameter names by layer, from the input of the network to its output.

    Args:
        names: Names of parameters of an image tower, in any order.

    Returns:
        Names by layer: `stem`, `block 1` … `block L`, `output`; layers without parameters are left
        out. Names keep their order within a layer.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        found = _BLOCK.search(name)
        if found:
            position = (1, *(int(number) for number in found.groups() if number is not None))
        else:
            position = (2,) if _OUTPUT.match(name) else (0,)
        groups.setdefault(position, []).append(name)
    layers, blocks = {}, 0
    for position in sorted(groups):
        blocks += position[0] == 1
        title = {0: STEM, 1: f"block {blocks}", 2: OUTPUT}[position[0]]
        layers[title] = groups[position]
    return layers
