"""The cost of selecting α in the tangent space, against one network evaluation per α.

For T tasks, the addition of all task vectors and the negation of each are evaluated on 21 α:
the addition on the validation images of every task, a negation on those of its task and of a
control. Two ways, from the same task vectors, images and heads:

* reference: the linearized network f0 + J·(α Σ w τ) runs once per edit, dataset and α;
* ours: f0 and Jτ are computed once per dataset and task vector, and everything else is matrix sums.

The encoder is the small tower of the embedded experiment with random weights, task vectors and
images are random: neither cost nor agreement of the two depends on what they mean. Both must
select the same α with the same accuracies, or the benchmark fails. Sizes take turns within each
repeat; the ratio is the median over repeats of the ratio within one. Seconds are the processor's,
which others on the machine disturb less than the clock's.

Examples:
    python benchmarks/selection.py
    python benchmarks/selection.py --tasks 2 4 --repeats 1 --images 32
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from task_arithmetic.artifacts import atomic_path, write_csv, write_text
from task_arithmetic.coefficients import select_addition, select_negation
from task_arithmetic.curves import count_correct, tangent_correct
from task_arithmetic.encoders import Encoder, Preprocess, build_clip
from task_arithmetic.features import first_order_features
from task_arithmetic.vectors import TaskVector

ALPHAS = [round(0.05 * step, 2) for step in range(21)]
CONTROL = "control"
CLASSES, BATCH = 10, 64


@dataclass(frozen=True)
class Problem:
    """Task vectors, and images, labels and heads of the tasks and the control."""

    encoder: Encoder
    vectors: dict[str, TaskVector]
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    heads: dict[str, np.ndarray]

    def edits(self) -> list[tuple[dict[str, int], list[str]]]:
        """Return the weights of each edit and the datasets that it is evaluated on."""
        addition = (dict.fromkeys(self.vectors, 1), list(self.vectors))
        return [addition, *(({task: -1}, [task, CONTROL]) for task in self.vectors)]


def make_problem(tasks: int, images: int) -> Problem:
    """Make a problem of random images, heads and task vectors.

    Args:
        tasks: How many tasks.
        images: Validation images per dataset.

    Returns:
        The problem.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    tower = build_clip({
        "embed_dim": 128,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 128, "layers": 4,
                       "head_width": 32},
        "text_cfg": {"context_length": 4, "vocab_size": 4, "width": 8, "heads": 1, "layers": 1},
    }).visual  # fmt: skip
    names = [f"task{index}" for index in range(tasks)]
    datasets = [*names, CONTROL]
    return Problem(
        Encoder("random", tower, Preprocess(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))),
        {name: _random_vector(tower) for name in names},
        {name: rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8) for name in datasets},
        {name: rng.integers(0, CLASSES, images) for name in datasets},
        {name: rng.normal(size=(CLASSES, 128)).astype(np.float32) for name in datasets},
    )


def _random_vector(tower: nn.Module) -> TaskVector:
    return TaskVector({
        name: 0.1 * value.detach().std().nan_to_num(0.0) * torch.randn_like(value)
        for name, value in tower.named_parameters()
    })


def one_network_per_alpha(problem: Problem) -> tuple[list[pd.DataFrame], float]:
    """Measure every curve by running the linearized network for every α.

    Args:
        problem: The task vectors and datasets.

    Returns:
        One curve per edit, and the network passes per image: a primal is 1, a tangent 2.
    """
    tower, preprocess = problem.encoder.tower, problem.encoder.preprocess
    theta0 = {name: value.detach() for name, value in tower.named_parameters()}
    curves, passes = [], 0.0
    for weights, datasets in problem.edits():
        direction = TaskVector.sum(w * problem.vectors[task] for task, w in weights.items())
        rows = []
        for dataset in datasets:
            inputs = preprocess(torch.from_numpy(problem.images[dataset]))
            for alpha in ALPHAS:
                step = {name: alpha * tensor for name, tensor in direction.items()}
                parts = []
                for batch in inputs.split(BATCH):
                    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                        f0, moved = jvp(
                            lambda p, batch=batch: functional_call(tower, p, (batch,)),
                            (theta0,),
                            (step,),
                        )
                    parts.append(f0 + moved)
                passes += 3
                features = torch.cat(parts).numpy()
                labels, head = problem.labels[dataset], problem.heads[dataset]
                rows.append((dataset, alpha, count_correct(features, labels, head)))
        curves.append(_curve(rows, problem))
    return curves, passes


def stored_features(problem: Problem) -> tuple[list[pd.DataFrame], float]:
    """Compute every curve from f0 and Jτ, one pass per dataset with the primal shared.

    Args:
        problem: The task vectors and datasets.

    Returns:
        One curve per edit, and the network passes per image: a primal is 1, a tangent 2.
    """
    names, f0, columns, passes = list(problem.vectors), {}, {}, 0.0
    for dataset, images in problem.images.items():
        vectors = list(problem.vectors.values())
        f0[dataset], tangents = first_order_features(problem.encoder, vectors, images, BATCH)
        columns[dataset] = dict(zip(names, tangents, strict=True))
        passes += 1 + 2 * len(vectors)
    curves = []
    for weights, datasets in problem.edits():
        rows = []
        for dataset in datasets:
            labels, head = problem.labels[dataset], problem.heads[dataset]
            correct = tangent_correct(ALPHAS, f0[dataset], columns[dataset], weights, labels, head)
            rows += [(dataset, *point) for point in zip(ALPHAS, correct, strict=True)]
        curves.append(_curve(rows, problem))
    return curves, passes


def _curve(rows: list[tuple[str, float, int]], problem: Problem) -> pd.DataFrame:
    curve = pd.DataFrame(rows, columns=["dataset", "alpha", "correct"])
    total = curve.dataset.map(lambda dataset: len(problem.labels[dataset]))
    return curve.assign(accuracy=curve.correct / total, split="validation")


def selected(curves: list[pd.DataFrame]) -> list[float | None]:
    """Select the α of each edit by the pipeline's own rules."""
    addition, *negations = curves
    # Any positive reference does: both ways are normalized by the same one.
    singles = addition[addition.alpha == 1].assign(accuracy=1.0)
    targets = [next(d for d in curve.dataset.unique() if d != CONTROL) for curve in negations]
    return [
        select_addition(addition, singles).alpha,
        *(
            select_negation(curve, target, CONTROL, 0.95).alpha
            for curve, target in zip(negations, targets, strict=True)
        ),
    ]


def compare(tasks: int, images: int) -> dict[str, float]:
    """Time both ways on one problem and check that they agree.

    Args:
        tasks: How many tasks.
        images: Validation images per dataset.

    Returns:
        Seconds and network passes of both ways.

    Raises:
        RuntimeError: If an accuracy or a selected α differs.
    """
    problem, measured, outcomes = make_problem(tasks, images), {}, []
    for way in (one_network_per_alpha, stored_features):
        started = time.process_time()
        curves, passes = way(problem)
        chosen = selected(curves)
        measured[f"{way.__name__}_seconds"] = time.process_time() - started
        measured[f"{way.__name__}_passes"] = passes
        outcomes.append((curves, chosen))
    (reference, expected), (ours, found) = outcomes
    if found != expected:
        raise RuntimeError(f"{tasks} tasks: expected the selections {expected}, found {found}")
    for a, b in zip(reference, ours, strict=True):
        if not a.correct.equals(b.correct):
            raise RuntimeError(f"{tasks} tasks: {(a.correct != b.correct).sum()} accuracies differ")
    return {"tasks": tasks, **measured}


def summarize(measured: pd.DataFrame) -> pd.DataFrame:
    """Return medians over repeats by number of tasks, and the ratios."""
    measured = measured.assign(
        time_ratio=measured.one_network_per_alpha_seconds / measured.stored_features_seconds,
        pass_ratio=measured.one_network_per_alpha_passes / measured.stored_features_passes,
    )
    return measured.groupby("tasks").median().reset_index()


def draw(summary: pd.DataFrame) -> Figure:
    """Draw the time ratio and the ratio of network passes against the number of tasks."""
    figure = Figure(figsize=(4.2, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(summary.tasks, summary.time_ratio, "o-", color="#0072B2", label="time")
    axes.plot(summary.tasks, summary.pass_ratio, "s--", color="#D55E00", label="network passes")
    axes.set_xscale("log", base=2)
    axes.set_xticks(summary.tasks, [str(tasks) for tasks in summary.tasks])
    axes.set_xlabel("tasks T")
    axes.set_ylabel("one network per α ÷ stored features")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.4)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    """Run the benchmark and write CSV, Markdown and a figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--images", type=int, default=64, help="validation images per dataset")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.backends.mha.set_fastpath_enabled(False)  # it has no forward-mode formula

    rows = []
    for repeat in range(options.repeats):
        for tasks in options.tasks:
            rows.append(compare(tasks, options.images))
            print(f"repeat {repeat + 1}: {rows[-1]}", flush=True)
    summary = summarize(pd.DataFrame(rows))
    write_csv(options.output / "selection.csv", summary)
    machine = f"{_processor()}, {options.threads} thread(s), torch {torch.__version__}"
    lines = [
        "# Selecting α in the tangent space",
        f"Made by `python benchmarks/selection.py` on: {machine}. {options.images} validation "
        f"images per dataset, 21 α, medians of {options.repeats} repeats; identical selections "
        "and accuracies in all of them.",
        "\n".join([
            "| tasks | one network per α (s) | stored features (s) | time ratio "
            "| passes per image, one network per α | stored features | ratio |",
            "|---:|---:|---:|---:|---:|---:|---:|",
            *(
                f"| {row.tasks:.0f} | {row.one_network_per_alpha_seconds:.1f} "
                f"| {row.stored_features_seconds:.2f} | **{row.time_ratio:.1f}** "
                f"| {row.one_network_per_alpha_passes:.0f} | {row.stored_features_passes:.0f} "
                f"| {row.pass_ratio:.1f} |"
                for row in summary.itertuples()
            ),
        ]),
    ]
    write_text(options.output / "selection.md", "\n\n".join(lines) + "\n")
    with atomic_path(options.output / "selection.png") as path:
        draw(summary).savefig(path, dpi=160, metadata={"Software": None})


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
