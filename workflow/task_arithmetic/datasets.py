"""Datasets: load a task and split it by the papers' rule.

`splits` knows the file of a split, and `loading` decodes its images. No torch here: these steps
start fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets as hub
import numpy as np

from task_arithmetic.sources import Files, load_source
from task_arithmetic.splits import check_split


def make_splits(
    name: str,
    source: Mapping[str, Any],
    validation: Mapping[str, Any],
    scratch: Path,
    downloaded: Files | None = None,
) -> dict[str, hub.Dataset]:
    """Load a task's examples and split validation examples off.

    They come off the training examples, unless the source has a validation split of its own. A
    control may have test examples only: then they come off those, and nothing is for training.

    Args:
        name: The task's name, for messages.
        source: Where it comes from, see `sources.load_source`.
        validation: The rule `{fraction, maximum, seed}` of `split_train_validation`.
        scratch: A folder for temporary files, which the result needs while it is used.
        downloaded: The files of a hub source by split.

    Returns:
        The splits `train`, `validation` and `test`.

    Raises:
        PipelineError: If a split is empty, or a label has no class name.
    """
    splits = load_source(name, source, downloaded, scratch)
    divided = "train" if "train" in splits else "test"
    if "validation" not in splits:
        whole = splits[divided]
        kept, held_out = split_train_validation(len(whole), **validation)
        splits |= {divided: whole.select(kept), "validation": whole.select(held_out)}
    for split, data in splits.items():
        check_split(f"{name} ({split})", data)
    return {"train": splits["test"].select([]), **splits}


def split_train_validation(
    size: int, fraction: float = 0.1, maximum: int = 5000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Choose training and validation examples by the papers' rule.

    The rule is `torch.utils.data.random_split` with a seeded generator, and this reproduces torch's
    shuffle to the index (for MNIST's 60,000 examples the first training index is 36044).

    Args:
        size: How many examples there are.
        fraction: The share that becomes validation data.
        maximum: At most this many validation examples.
        seed: The shuffle's seed.

    Returns:
        Indices of the training and of the validation examples.
    """
    # torch.randperm on the CPU: a Fisher-Yates shuffle fed by a Mersenne twister.
    twister = np.random.RandomState(seed)._bit_generator
    order = np.arange(size)
    for position, draw in enumerate(twister.random_raw(max(size - 1, 0)).tolist()):
        other = position + draw % (size - position)
        order[position], order[other] = order[other], order[position]
    held_out = min(int(size * fraction), maximum)
    return order[: size - held_out], order[size - held_out :]
