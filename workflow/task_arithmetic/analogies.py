"""Analogies between sub-populations: A is to B as C is to D, so τ_D ≈ τ_C + (τ_B − τ_A).

Two datasets with the same classes in different styles, such as photographs and sketches, make four
sub-populations: each half of the classes in each style. Every one of them is D in turn, and is
compared with a model that has seen no image of it, or few (Ilharco et al. 2023, section 5).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.coefficients import select_mean
from task_arithmetic.encoders import Encoder
from task_arithmetic.finetune import FinetuneSettings
from task_arithmetic.loading import Images, Request, as_images
from task_arithmetic.measuring import Bench, Examples
from task_arithmetic.variants import Variant, train_variant
from task_arithmetic.vectors import TaskVector

HALVES = ("first", "second")
ANALOGY_COLUMNS = [
    "model", "seed", "mode", "target", "method", "samples", "alpha", "total", "accuracy",
]  # fmt: skip


@dataclass(frozen=True)
class Population:
    """A half of the classes in one style.

    Attributes:
        style: The dataset that has it.
        half: Which half, 0 or 1.
    """

    style: str
    half: int

    @property
    def name(self) -> str:
        """What its task vector is called."""
        return f"{self.style}-{HALVES[self.half]}"


@dataclass(frozen=True)
class Analogy:
    """A is to B as C is to D.

    C and D have one style, A and B the other; B and D have the same classes, and so have A and C.
    """

    a: Population
    b: Population
    c: Population
    d: Population

    def vector(self, vectors: Mapping[Population, TaskVector]) -> TaskVector:
        """Return τ_C + (τ_B − τ_A); τ_D need not be among the vectors."""
        return vectors[self.c] + (vectors[self.b] - vectors[self.a])


def analogies(styles: Sequence[str]) -> list[Analogy]:
    """Return the four analogies of two datasets, one for each sub-population as D."""
    return [
        Analogy(
            Population(other, 1 - half),
            Population(other, half),
            Population(style, 1 - half),
            Population(style, half),
        )
        for style, other in (styles, styles[::-1])
        for half in range(len(HALVES))
    ]


def shared_classes(class_names: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the classes that two datasets have in common.

    Args:
        class_names: Class names of the two by dataset, each by index.

    Returns:
        The names, in the order of the first dataset.

    Raises:
        PipelineError: If there are fewer than two, which cannot be halved.
    """
    first, second = class_names.values()
    shared = [name for name in first if name in set(second)]
    if len(shared) < 2:
        raise PipelineError(
            f"analogies.styles: expected at least two classes of the same name in "
            f"{' and '.join(class_names)}, found {', '.join(shared) or 'none'}"
        )
    return shared


def sub_populations(
    examples: Sequence[Examples], class_names: Mapping[str, Sequence[str]]
) -> dict[Population, Examples]:
    """Divide the images of two datasets into the four sub-populations.

    Args:
        examples: One split of each dataset.
        class_names: Their class names by dataset, each by index.

    Returns:
        The images of each, with labels among all shared classes and the head of these.

    Raises:
        PipelineError: If a sub-population has no images, or too few classes are shared.
    """
    shared, divided = shared_classes(class_names), {}
    middle = len(shared) // 2
    for of in examples:
        names = list(class_names[of.dataset])
        head = of.head[[names.index(name) for name in shared]]
        # The label of each class among the shared ones; -1 for the others.
        among = np.array([shared.index(name) if name in shared else -1 for name in names])
        labels = among[of.labels]
        halves = (labels >= 0) & (labels < middle), labels >= middle
        for half, members in enumerate(halves):
            population = Population(of.dataset, half)
            if not members.any():
                raise PipelineError(
                    f"{population.name} ({of.split}): expected images of its classes, found none"
                )
            relabelled = replace(of, dataset=population.name, labels=labels, head=head)
            divided[population] = _taken(relabelled, np.flatnonzero(members))
    return divided


def labelled_sample(of: Examples, count: int, seed: int) -> Examples:
    """Choose some examples, of each class as many as of the others as far as there are enough.

    Args:
        of: All examples.
        count: How many to choose.
        seed: Decides which; a smaller sample of the same seed is part of a larger one.

    Returns:
        The chosen ones.

    Raises:
        PipelineError: If there are fewer.
    """
    if count > len(of.labels):
        raise PipelineError(
            f"{of.dataset} ({of.split}): expected at least the {count} images of "
            f"analogies.samples, found {len(of.labels)}"
        )
    shuffled = np.random.default_rng(seed).permutation(len(of.labels))
    labels = pd.Series(of.labels[shuffled])
    # The first of each class come first, then the second of each class, and so on.
    order = np.argsort(labels.groupby(labels).cumcount(), kind="stable")
    return _taken(of, shuffled[order[:count]])


def measure_analogy(
    bench: Bench,
    analogy: Analogy,
    vectors: Mapping[Population, TaskVector],
    alphas: Sequence[float],
    validation: Mapping[Population, Examples],
    test: Mapping[Population, Examples],
) -> pd.DataFrame:
    """Measure an analogy on its target, beside the pre-trained and the target's own model.

    Args:
        bench: The encoder and the mode.
        analogy: The analogy.
        vectors: Task vectors of the four sub-populations.
        alphas: The grid of α.
        validation: Their validation images. Those of D are not looked at: α has the best mean
            accuracy on B and C, and the first best wins a tie.
        test: Their test images, of which those of D are measured on.

    Returns:
        Rows with `ANALOGY_COLUMNS` of the methods `zero-shot`, `analogy` and `fine-tuned`; α is
        that of an analogy, and missing for the other two.
    """
    edit = analogy.vector(vectors)
    known = [validation[analogy.b], validation[analogy.c]]
    curve = bench.measure({"analogy": edit}, {"analogy": alphas}, known)
    alpha = select_mean(curve).alpha
    moves = {"zero-shot": edit, "analogy": edit, "fine-tuned": vectors[analogy.d]}
    at = {"zero-shot": [0.0], "analogy": [alpha], "fine-tuned": [1.0]}
    rows = _rows(bench.measure(moves, at, [test[analogy.d]]))
    rows["alpha"] = rows["alpha"].where(rows["method"] == "analogy")
    rows["samples"] = rows["samples"].where(rows["method"] != "fine-tuned")
    return rows


@dataclass(frozen=True)
class FewShot:
    """Fine-tuning on few labelled images of the target.

    Attributes:
        counts: How many images, each number for itself.
        settings: The protocol; a batch has at most all of the images.
        resume_path: Gives a run, by its name, the file of its resumable states.
        fingerprint: Identifies everything else that decides the result.
    """

    counts: Sequence[int]
    settings: FinetuneSettings
    resume_path: Callable[[str], Path]
    fingerprint: str

    def measure(
        self, bench: Bench, edit: TaskVector, alpha: float, train: Examples, test: Examples
    ) -> pd.DataFrame:
        """Measure models that start from θ0, and from the analogy at its α.

        Args:
            bench: The encoder, and the non-linear mode.
            edit: The analogy's vector.
            alpha: Its coefficient.
            train: Training images of the target to sample from.
            test: Its test images.

        Returns:
            Rows with `ANALOGY_COLUMNS` of the methods `samples` and `analogy-samples`.
        """
        measured = []
        for count in self.counts:
            sample = labelled_sample(train, count, self.settings.seed)
            for method, start in (("samples", 0.0), ("analogy-samples", alpha)):
                name = f"{train.dataset}-{count}-{method}"
                theta = self.train(bench.encoder, start * edit, sample, name)
                rows = _rows(bench.measure({method: theta}, {method: [1.0]}, [test]), count)
                measured.append(rows.assign(alpha=start or np.nan))
        return pd.concat(measured, ignore_index=True)

    def train(self, encoder: Encoder, start: TaskVector, of: Examples, name: str) -> TaskVector:
        """Return the task vector θ − θ0 of a model that is fine-tuned from θ0 + `start`."""
        # Measuring may have moved the tower to a GPU; its task vectors are on the CPU.
        tower = start.apply_to(copy.deepcopy(encoder.tower).cpu())
        batch_size = min(self.settings.batch_size, len(of.labels))
        trained = train_variant(
            Variant(name),
            replace(encoder, tower=tower),
            torch.from_numpy(of.head),
            of.images,
            torch.from_numpy(of.labels),
            replace(self.settings, batch_size=batch_size),
            self.resume_path(name),
            self.fingerprint,
        )
        return start + trained[name]


class ChosenImages:
    """Some of the images of a split."""

    def __init__(self, images: Images, chosen: Int[np.ndarray, " chosen"]) -> None:
        """Take the images of a split and the indices of those chosen."""
        self._images, self._chosen = images, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def batches(self, requests: Iterable[Request]) -> Iterator[np.ndarray]:
        """Yield requested batches, made ahead of their use."""
        return self._images.batches((epoch, self._chosen[indices]) for epoch, indices in requests)


def _taken(of: Examples, chosen: np.ndarray) -> Examples:
    images = ChosenImages(as_images(of.images), chosen)
    return replace(of, images=images, labels=of.labels[chosen])


def _rows(measured: pd.DataFrame, samples: int = 0) -> pd.DataFrame:
    rows = measured.rename(columns={"edit": "method", "dataset": "target"})
    # Whole numbers that may be missing.
    return rows.assign(samples=pd.array([samples] * len(rows), "Int64"))[ANALOGY_COLUMNS]
