"""What a run costs, said before it starts: jobs by rule, GPU hours, and disk.

The unit of work is one image's forward pass through the image tower; `passes` counts them. A pass
has the floating point operations of its architecture, and `planning.tflops` says how many the
hardware really does: a number that `benchmarks/tangent.py` measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from task_arithmetic.architectures import resolve_architecture
from task_arithmetic.passes import passes_of

FLOAT = 4  # bytes


@dataclass(frozen=True)
class PlannedJob:
    """One job that is about to run.

    Attributes:
        rule: Name of its rule.
        settings: Its step's named parameters.
        model: The model that it works with, if any.
        gpus: How many GPUs it asks for.
        local: Whether it runs in the main process's machine rather than on the cluster.
    """

    rule: str
    settings: Mapping[str, Any]
    model: str | None
    gpus: int
    local: bool


@dataclass(frozen=True)
class Cost:
    """What the jobs of one rule cost.

    Attributes:
        rule: The rule.
        jobs: How many there are.
        local: Whether they run beside the main process.
        gpu_hours: Hours of GPUs; None if unknown (a data set of unknown size, say).
        disk: Bytes that their outputs take; None if unknown.
    """

    rule: str
    jobs: int
    local: bool
    gpu_hours: float | None
    disk: float | None


def costs(jobs: Iterable[PlannedJob], config: Mapping[str, Any]) -> list[Cost]:
    """Estimate what jobs cost, rule by rule.

    Args:
        jobs: The jobs.
        config: The experiment's configuration.

    Returns:
        One entry per rule; what takes most GPU hours comes first, then what has most jobs.
    """
    by_rule: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        by_rule.setdefault(job.rule, []).append(job)
    found = [
        Cost(
            rule,
            len(alike),
            all(job.local for job in alike),
            _sum(_gpu_hours(job, config) for job in alike),
            _sum(_disk(job, config) for job in alike),
        )
        for rule, alike in by_rule.items()
    ]
    return sorted(found, key=lambda cost: (-(cost.gpu_hours or 0), -cost.jobs, cost.rule))


def forward_flops(architecture: Mapping[str, Any]) -> float | None:
    """Return the floating point operations of one image's pass through a vision transformer.

    Args:
        architecture: An open_clip model configuration.

    Returns:
        Twice the multiplications of patch embedding, projections, perceptrons and attention; None
        for another kind of tower.
    """
    shape = _transformer(architecture)
    if shape is None:
        return None
    width, layers, tokens, patch = shape
    projections = 12 * width**2 * tokens
    attention = 2 * width * tokens**2
    embedding = 3 * patch**2 * width * tokens
    return 2.0 * (layers * (projections + attention) + embedding)


def tower_parameters(architecture: Mapping[str, Any]) -> float | None:
    """Return the number of parameters of a vision transformer; None for another kind of tower."""
    shape = _transformer(architecture)
    if shape is None:
        return None
    width, layers, tokens, patch = shape
    layer = 12 * width**2 + 13 * width
    return layers * layer + (3 * patch**2 + tokens + architecture["embed_dim"] + 5) * width


def clip_parameters(architecture: Mapping[str, Any]) -> float | None:
    """Return the number of parameters of a CLIP model's two towers; None as for its image tower."""
    tower = tower_parameters(architecture)
    if tower is None:
        return None
    text = architecture["text_cfg"]
    width, embeddings = text["width"], text["vocab_size"] + text["context_length"]
    text_tower = text["layers"] * (12 * width**2 + 13 * width) + embeddings * width
    return tower + text_tower + (architecture["embed_dim"] + 2) * width + 1


def _transformer(architecture: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """Return width, layers, tokens and patch size."""
    vision = architecture["vision_cfg"]
    if not vision.get("patch_size") or "timm_model_name" in vision:
        return None
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    return vision["width"], vision["layers"], tokens, vision["patch_size"]


def images_of(config: Mapping[str, Any], dataset: str) -> dict[str, int] | None:
    """Return the number of images of a data set's splits; None if its configuration does not say.

    Args:
        config: The experiment's configuration.
        dataset: Name of the data set.

    Returns:
        Numbers of images by split: `train`, `validation` and `test`.
    """
    source = config["datasets"][dataset]["source"]
    sizes = dict(source if "generator" in source else source.get("images", {}))
    if not sizes:
        return None
    if "validation" not in sizes:
        # Held out of the training images, or of the test images of a data set that only tests.
        whole = "train" if "train" in sizes else "test"
        rule = config["validation"]
        held_out = min(math.floor(sizes[whole] * rule["fraction"]), rule["maximum"])
        sizes |= {"validation": held_out, whole: sizes[whole] - held_out}
    return {split: sizes.get(split, 0) for split in ("train", "validation", "test")}


def forward_passes(job: PlannedJob, config: Mapping[str, Any]) -> float | None:
    """Return how many forward passes of one image a job takes; None if that is unknown.

    Args:
        job: The job.
        config: The experiment's configuration.

    Returns:
        The number; 0 for a job without a GPU.
    """
    if not job.gpus:
        return 0

    def images(dataset: str, split: str) -> float:
        return (images_of(config, dataset) or {}).get(split, math.nan)

    passes = passes_of(job.rule, job.settings, images)
    return None if math.isnan(passes) else passes


def _evaluated(config: Mapping[str, Any], datasets: list[str], splits: list[str]) -> int | None:
    sizes = [images_of(config, dataset) for dataset in datasets]
    if None in sizes:
        return None
    return sum(found[split] for found in sizes for split in splits)


def _gpu_hours(job: PlannedJob, config: Mapping[str, Any]) -> float | None:
    if not job.gpus or job.model is None:
        return 0
    passes = forward_passes(job, config)
    flops = forward_flops(_architecture(config, job.model))
    if passes is None or flops is None:
        return None
    return passes * flops / (config["planning"]["tflops"] * 1e12) / 3600


def _disk(job: PlannedJob, config: Mapping[str, Any]) -> float | None:
    if job.rule == "dataset":
        megabytes = config["datasets"][job.settings["dataset"]]["source"].get("size_mb")
        return None if megabytes is None else megabytes * 1e6
    if towers := _towers(job):
        parameters = tower_parameters(_architecture(config, job.model))
        return None if parameters is None else FLOAT * towers * parameters
    if job.rule == "features":
        images = _evaluated(config, [job.settings["dataset"]], job.settings["splits"])
        columns = 1 + len(job.settings["vectors"])
        width = _architecture(config, job.model)["embed_dim"]
        return None if images is None else FLOAT * images * columns * width
    return 0


def _towers(job: PlannedJob) -> int:
    """Return how many towers' parameters a job writes."""
    if job.rule == "variants":
        made = job.settings["variants"].values()
        return sum(1 + len(variant.get("snapshots", ())) for variant in made)
    if job.rule == "start_vectors":
        return len(job.settings["hyperparameters"])
    return {"finetune": 1, "vector": 1, "analogy_vectors": 4}.get(job.rule, 0)


def _architecture(config: Mapping[str, Any], model: str) -> dict[str, Any]:
    return resolve_architecture(config["models"][model]["architecture"])


def _sum(amounts: Iterable[float | None]) -> float | None:
    found = list(amounts)
    return None if None in found else sum(found)


def render_costs(found: list[Cost], tflops: float) -> str:
    """Render costs as a table for a terminal.

    Args:
        found: The costs.
        tflops: The speed that they assume.

    Returns:
        Lines of text.
    """
    lines = [f"{'rule':<24}{'jobs':>7}  {'where':<8}{'GPU hours':>10}{'disk':>10}"]
    total = Cost(
        "total",
        sum(cost.jobs for cost in found),
        False,
        _sum(cost.gpu_hours for cost in found),
        _sum(cost.disk for cost in found),
    )
    for cost in [*found, total]:
        where = "" if cost is total else "here" if cost.local else "cluster"
        lines.append(
            f"{cost.rule:<24}{cost.jobs:>7}  {where:<8}{_hours(cost.gpu_hours):>10}"
            f"{_bytes(cost.disk):>10}"
        )
    lines.append(f"GPU hours at {tflops:g} TFLOP/s sustained (planning.tflops).")
    return "\n".join(lines)


def _hours(hours: float | None) -> str:
    if hours is None:
        return "?"
    return f"{hours:.1f}" if hours >= 0.05 else f"{hours:.3f}" if hours else "-"


def _bytes(amount: float | None) -> str:
    if amount is None:
        return "?"
    if amount == 0:
        return "-"
    power = min(int(math.log10(amount) // 3), 4)
    return f"{amount / 1000**power:.0f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
