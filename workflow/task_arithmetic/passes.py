"""How many forward passes of one image the jobs take, counted from their settings.

A step of non-linear fine-tuning is 3 of them per image and a linearized one 5, the tangents of T
task vectors are 1 + 2T, an edit of the network is one per coefficient. Passes of a text tower count
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

UNITS_PER_STEP = {"nonlinear": 3, "linear": 5}
SPLITS = ("validation", "test")

Settings = Mapping[str, Any]
# The number of images of a dataset's split; not-a-number if it is unknown.
Images = Callable[[str, str], float]


def passes_of(rule: str, settings: Settings, images: Images) -> float:
    """Count the passes of a job.

    Args:
        rule: Its rule.
        settings: Its step's named parameters.
        images: The sizes of datasets.

    Returns:
        The number, at most a few passes off; not-a-number if a size is unknown, or if they cannot
        be counted beforehand, as those of a kernel, whose blocks depend on memory.
    """
    count = _COUNTS.get(rule)
    return math.nan if count is None else count(settings, images)


def _training(protocol: Settings, images: float) -> float:
    """Count a fine-tuning on a number of images."""
    seen = (
        protocol["epochs"] * images
        if "epochs" in protocol
        else protocol["steps"] * protocol["batch_size"]
    )
    return UNITS_PER_STEP[protocol["mode"]] * seen


def _sum(images: Images, datasets: Sequence[str], *splits: str) -> float:
    return sum(images(dataset, split) for dataset in datasets for split in splits)


def _tangents(vectors: int) -> int:
    """Count one image's passes for f0 and the tangents of some vectors."""
    return 1 + 2 * vectors


# --- The papers' tables -----------------------------------------------------------------------


def _finetune(settings: Settings, images: Images) -> float:
    protocol = settings["hyperparameters"]
    # Only epochs need the size.
    size = images(settings["task"], "train") if "epochs" in protocol else 0
    return _training(protocol, size)


def _features(settings: Settings, images: Images) -> float:
    of_images = _sum(images, [settings["dataset"]], *settings["splits"])
    return of_images * _tangents(len(settings["vectors"]))


def _nonlinear_curve(settings: Settings, images: Images) -> float:
    # A test curve takes its one coefficient from the selection.
    alphas = max(1, len(settings["alphas"]))
    return alphas * _sum(images, settings["datasets"], *settings["splits"])


# --- Sums of task vectors ---------------------------------------------------------------------


def _merge(settings: Settings, images: Images) -> float:
    tasks, alphas = settings["tasks"], len(settings["coefficients"])
    # The plain sum is a method, and on test images its mean is another.
    merged = len(settings["methods"]) + 1
    seen, unseen = (_sum(images, tasks, split) for split in SPLITS)
    if settings["mode"] == "nonlinear":
        return merged * alphas * seen + (merged + 1) * unseen
    return _tangents(merged) * seen + _tangents(merged + 1) * unseen


def _nonlinear_subsets(settings: Settings, images: Images) -> float:
    tasks, samples = settings["tasks"], settings["samples"]
    seen, unseen = (_sum(images, tasks, split) for split in SPLITS)
    sampled = {size: min(samples, math.comb(len(tasks), size)) for size in range(1, len(tasks) + 1)}
    pairs = math.comb(len(tasks), 2) - sampled.get(2, 0)  # those that are not in the sample
    members = sum(size * count for size, count in sampled.items()) + 2 * pairs
    return (
        len(settings["coefficients"]) * members * seen / len(tasks)
        + sum(sampled.values()) * unseen
        + pairs * 2 * unseen / len(tasks)
        + len(tasks) * unseen  # the ensemble
    )


def _variants(settings: Settings, images: Images) -> float:
    size = images(settings["task"], "train")
    return sum(
        _training({**settings["hyperparameters"], **variant.get("changes", {})}, size)
        for variant in settings["variants"].values()
    )


def _negation_baselines(settings: Settings, images: Images) -> float:
    alphas = len({0.0, *settings["coefficients"]})
    return sum(
        2 * alphas * _sum(images, [task, settings["control"]], "validation")
        + 4 * _sum(images, [task, settings["control"]], "test")
        for task in settings["tasks"]
    )


def _ablations(settings: Settings, images: Images) -> float:
    # The ordinary run, another seed, and both mixed.
    runs = 3 + len(settings["rates"]) + len(settings["snapshots"])
    seen, unseen = (_sum(images, settings["tasks"], split) for split in SPLITS)
    return runs * (len(settings["coefficients"]) * seen + 2 * unseen)


def _analogy_vectors(settings: Settings, images: Images) -> float:
    protocol = settings["hyperparameters"]
    if "epochs" in protocol:
        return _training(protocol, _sum(images, settings["styles"], "train"))
    return 4 * _training(protocol, 0)


def _analogies(settings: Settings, images: Images) -> float:
    seen, unseen = (_sum(images, settings["styles"], split) for split in SPLITS)
    if settings["mode"] != "nonlinear":
        return 2 * _tangents(1) * seen + _tangents(3) * unseen
    # Every sub-population is twice among B and C, and once D.
    total = 2 * len(settings["coefficients"]) * seen + 3 * unseen
    for count in settings["samples"]:
        batch = min(settings["hyperparameters"]["batch_size"], count)
        few = _training({**settings["hyperparameters"], "batch_size": batch}, count)
        total += 2 * (4 * few + unseen)
    return total


# --- Why it works -----------------------------------------------------------------------------


def _linear_weights(settings: Settings, images: Images) -> float:
    return _sum(images, settings["tasks"], "test")


def _errors(tasks: Sequence[str], points: int, alphas: int, images: int) -> float:
    """Count the errors at some points of all pairs: both models of each, and single vectors."""
    return images * (2 * points + len(tasks) * alphas)


def _disentanglement(settings: Settings, images: Images) -> float:
    tasks, grid, diagonal = (settings[key] for key in ("tasks", "grid", "diagonal"))
    line = {(alpha, alpha) for alpha in diagonal}
    plane = {(first, second) for first in grid for second in grid}
    named = len(settings["pairs"])
    points = math.comb(len(tasks), 2) * len(line) + named * len(plane - line)
    return _errors(tasks, points, len({*grid, *diagonal}), settings["images"])


def _checkpoint(settings: Settings, images: Images) -> float:
    pretraining = settings["pretraining"] or {"batch_size": 0}
    return UNITS_PER_STEP["nonlinear"] * settings["step"] * pretraining["batch_size"]


def _pretrain(settings: Settings, images: Images) -> float:
    pretraining = settings["pretraining"]
    return UNITS_PER_STEP["nonlinear"] * pretraining["images"] * pretraining["passes"]


def _probe_heads(settings: Settings, images: Images) -> float:
    return _sum(images, settings["datasets"], "train")


def _start_vectors(settings: Settings, images: Images) -> float:
    return sum(
        _training(protocol, images(task, "train"))
        for task, protocol in settings["hyperparameters"].items()
    )


def _start_edits(settings: Settings, images: Images) -> float:
    tasks, control, modes = (settings[key] for key in ("tasks", "control", "modes"))
    chosen, alphas = settings["images"], len(settings["alphas"])
    tangent = sum(mode != "nonlinear" for mode in modes)
    datasets = len(tasks) + (control is not None)
    total = 2 * datasets * chosen * _tangents(len(tasks) * tangent) if tangent else 0
    if "nonlinear" in modes:
        singles = 4 * len(tasks)  # α = 0 and 1 on two splits
        addition = (alphas + 2) * len(tasks)
        negation = (alphas + 2) * 2 * len(tasks) if control is not None else 0
        diagonal = len(settings["diagonal"])
        points = diagonal * math.comb(len(tasks), 2)
        total += chosen * (singles + addition + negation)
        total += _errors(tasks, points, diagonal, chosen)
    return total


_COUNTS: dict[str, Callable[[Settings, Images], float]] = {
    "finetune": _finetune,
    "features": _features,
    "nonlinear_curve": _nonlinear_curve,
    "merge": _merge,
    "nonlinear_subsets": _nonlinear_subsets,
    "variants": _variants,
    "negation_baselines": _negation_baselines,
    "ablations": _ablations,
    "analogy_vectors": _analogy_vectors,
    "analogies": _analogies,
    "linear_weights": _linear_weights,
    "disentanglement": _disentanglement,
    "checkpoint": _checkpoint,
    "pretrain": _pretrain,
    "probe_heads": _probe_heads,
    "start_vectors": _start_vectors,
    "start_edits": _start_edits,
}
