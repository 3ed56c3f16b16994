"""Analogies: the sub-populations, their algebra, α without data of the target, and few samples."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_accuracies import accuracy_rows
from test_finetune import SETTINGS

from task_arithmetic import analogies as module
from task_arithmetic import analogy_figures, merging_rendering, merging_tables, tables
from task_arithmetic.analogies import (
    ANALOGY_COLUMNS,
    FewShot,
    Population,
    analogies,
    labelled_sample,
    measure_analogy,
    shared_classes,
    sub_populations,
)
from task_arithmetic.artifacts import PipelineError
from task_arithmetic.coefficients import select_mean
from task_arithmetic.loading import in_order
from task_arithmetic.measuring import Bench, Examples
from task_arithmetic.variants import Variant, train_variant
from task_arithmetic.vectors import TaskVector

STYLES = ["photos", "sketches"]
# The sketches have their classes in another order, one of them alone, and so have the photographs.
CLASS_NAMES = {
    "photos": ["lion", "dog", "tree", "cat", "car"],
    "sketches": ["cat", "house", "dog", "lion", "car"],
}
ALPHAS = [0.3, 0.6, 1.0]


def examples_of(style, split, size=60, seed=0):
    draw = np.random.default_rng([seed, STYLES.index(style), split == "test"])
    return Examples(
        style,
        split,
        draw.integers(0, 256, (size, 4, 4, 3), dtype=np.uint8),
        draw.permutation(np.arange(size) % 5),
        draw.normal(size=(5, 6)).astype(np.float32),
    )


def populations_of(split, **kwargs):
    return sub_populations([examples_of(style, split, **kwargs) for style in STYLES], CLASS_NAMES)


def images_of(of):
    return np.concatenate(list(of.images.batches(in_order(len(of.images), 7))))


@pytest.fixture
def bench(problem):
    return Bench(problem[0], 0, "nonlinear", 8)


@pytest.fixture
def vectors(problem):
    parameters = dict(problem[0].tower.named_parameters())
    return {
        analogy.d: TaskVector({n: torch.randn_like(p) for n, p in parameters.items()})
        for analogy in analogies(STYLES)
    }


def accuracy(bench, vector, alpha, of):
    return bench.measure({"edit": vector}, {"edit": [alpha]}, [of]).accuracy[0]


def test_only_classes_of_the_same_name_are_shared():
    assert shared_classes(CLASS_NAMES) == ["lion", "dog", "cat", "car"]
    with pytest.raises(PipelineError, match="same name in a and b, found x"):
        shared_classes({"a": ["x", "y"], "b": ["x", "z"]})


def test_a_sub_population_is_a_half_of_the_classes_with_labels_among_all_shared():
    shared = ["lion", "dog", "cat", "car"]
    halves = [{"lion", "dog"}, {"cat", "car"}]
    found = populations_of("train")
    assert list(found) == [Population(style, half) for style in STYLES for half in (0, 1)]
    for population, of in found.items():
        whole, names = examples_of(population.style, "train"), CLASS_NAMES[population.style]
        members = [i for i, x in enumerate(whole.labels) if names[x] in halves[population.half]]
        np.testing.assert_array_equal(images_of(of), whole.images[members])
        assert [shared[x] for x in of.labels] == [names[whole.labels[i]] for i in members]
        for name, row in zip(shared, of.head, strict=True):
            np.testing.assert_array_equal(row, whole.head[names.index(name)])
        assert of.dataset == population.name


def test_a_half_without_images_is_an_error():
    of = examples_of("photos", "train")
    names = CLASS_NAMES["photos"]
    kept = np.isin(of.labels, [names.index(name) for name in ("cat", "car", "tree")])
    of = replace(of, images=of.images[kept], labels=of.labels[kept])
    with pytest.raises(PipelineError, match=r"photos-first \(train\): expected images"):
        sub_populations([of, examples_of("sketches", "train")], CLASS_NAMES)


def test_an_analogy_joins_the_other_half_and_the_other_style():
    values = {"photos-first": 1.0, "photos-second": 20.0, "sketches-first": 300.0}
    vectors = {
        Population(style, ["first", "second"].index(half)): TaskVector({"w": torch.tensor([value])})
        for (style, half), value in ((name.split("-"), value) for name, value in values.items())
    }
    # The vector of the target itself is not there.
    (of,) = [of for of in analogies(STYLES) if of.d == Population("sketches", 1)]
    assert of.vector(vectors)["w"].item() == 300 + (20 - 1)
    assert len({of.d for of in analogies(STYLES)}) == 4
    for of in analogies(STYLES):
        assert of.c.style == of.d.style != of.a.style == of.b.style
        assert of.a.half == of.c.half != of.b.half == of.d.half


@pytest.mark.parametrize("mode", ["nonlinear", "linear"])
def test_an_analogy_is_measured_at_the_best_alpha_on_b_and_c(bench, vectors, mode):
    bench = replace(bench, mode=mode)
    validation, test = populations_of("validation"), populations_of("test")
    for analogy in analogies(STYLES):
        rows = measure_analogy(bench, analogy, vectors, ALPHAS, validation, test)
        assert list(rows.columns) == ANALOGY_COLUMNS
        edit = vectors[analogy.c] + (vectors[analogy.b] - vectors[analogy.a])
        means = [
            np.mean([accuracy(bench, edit, a, validation[p]) for p in (analogy.b, analogy.c)])
            for a in ALPHAS
        ]
        by = rows.set_index("method")
        alpha = by.alpha["analogy"]
        assert alpha == ALPHAS[int(np.argmax(means))]
        of = test[analogy.d]
        assert by.accuracy.to_dict() == {
            "zero-shot": accuracy(bench, edit, 0.0, of),
            "analogy": accuracy(bench, edit, alpha, of),
            "fine-tuned": accuracy(bench, vectors[analogy.d], 1.0, of),
        }
        assert set(by.target) == {analogy.d.name}
        assert by["samples"].fillna(-1).to_dict() == {
            "zero-shot": 0, "analogy": 0, "fine-tuned": -1
        }  # fmt: skip
        assert by.alpha.isna().tolist() == [True, False, True]


def test_the_smallest_of_the_best_alphas_is_chosen():
    curve = pd.concat([
        accuracy_rows("small", 0, "nonlinear", "analogy", of, "validation", accuracies)
        for of, accuracies in (
            ("b", {1.0: 0.6, 0.2: 0.1, 0.4: 0.5}), ("c", {1.0: 0.4, 0.2: 0.5, 0.4: 0.5})
        )
    ])  # fmt: skip
    chosen = select_mean(curve)
    assert (chosen.alpha, chosen.objective) == (0.4, pytest.approx(0.5))


def test_alpha_is_chosen_without_images_or_vector_of_the_target(bench, vectors):
    validation, test = populations_of("validation"), populations_of("test")
    for analogy in analogies(STYLES):
        blind = {of: seen for of, seen in validation.items() if of in (analogy.b, analogy.c)}
        alone = {analogy.d: test[analogy.d]}
        blinded = measure_analogy(bench, analogy, vectors, ALPHAS, blind, alone)
        pd.testing.assert_frame_equal(
            blinded, measure_analogy(bench, analogy, vectors, ALPHAS, validation, test)
        )
        another = vectors | {analogy.d: 2.0 * vectors[analogy.d]}
        without = measure_analogy(bench, analogy, another, ALPHAS, blind, alone)
        assert without.iloc[:2].equals(blinded.iloc[:2])


def test_samples_are_nested_and_balanced_as_far_as_there_are_images():
    of = populations_of("train")[Population("photos", 0)]
    # One class has fewer images than its share of the larger samples.
    rare = np.flatnonzero(of.labels == 0)[:3]
    kept = np.sort(np.concatenate([rare, np.flatnonzero(of.labels == 1)]))
    of = replace(of, images=images_of(of)[kept], labels=of.labels[kept])
    taken = {count: labelled_sample(of, count, seed=4) for count in (1, 2, 5, 6, 9, 15)}
    for count, sample in taken.items():
        counts = np.bincount(sample.labels, minlength=2)
        assert counts.sum() == len(sample.images) == count
        assert counts[0] == 3 if count > 6 else abs(counts[0] - counts[1]) <= 1
    for smaller, larger in pairwise(taken.values()):
        np.testing.assert_array_equal(images_of(smaller), images_of(larger)[: len(smaller.labels)])
    assert (images_of(taken[9]) == images_of(labelled_sample(of, 9, seed=4))).all()
    assert (images_of(taken[9]) != images_of(labelled_sample(of, 9, seed=5))).any()
    with pytest.raises(
        PipelineError, match=r"at least the 16 images of analogies.samples, found 15"
    ):
        labelled_sample(of, 16, seed=4)


def test_few_images_are_trained_on_from_both_starts(bench, vectors, tmp_path):
    analogy = analogies(STYLES)[0]
    edit, train = analogy.vector(vectors), populations_of("train")[analogy.d]
    test = populations_of("test")[analogy.d]
    few = FewShot([4, 12], SETTINGS, lambda name: tmp_path / f"{name}.resume.safetensors", "x")
    before = copy.deepcopy(bench.encoder.tower.state_dict())
    rows = few.measure(bench, edit, 0.3, train, test)
    after = bench.encoder.tower.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert list(rows.columns) == ANALOGY_COLUMNS
    assert rows["samples"].tolist() == [4, 4, 12, 12]
    assert rows["method"].tolist() == ["samples", "analogy-samples"] * 2
    assert rows["alpha"].fillna(0).tolist() == [0, 0.3] * 2
    for row in rows.itertuples():
        start = replace(bench.encoder, tower=copy.deepcopy(bench.encoder.tower))
        if row.method == "analogy-samples":
            (0.3 * edit).apply_to(start.tower)
        sample = labelled_sample(train, row.samples, SETTINGS.seed)
        made = train_variant(
            Variant("plain"),
            start,
            torch.from_numpy(sample.head),
            torch.from_numpy(images_of(sample)),
            torch.from_numpy(sample.labels),
            replace(SETTINGS, batch_size=min(SETTINGS.batch_size, row.samples)),
            tmp_path / f"plain-{row.Index}.safetensors",
            "plain",
        )
        made["plain"].apply_to(start.tower)
        whole = TaskVector.between(before, dict(start.tower.state_dict()))
        assert row.accuracy == pytest.approx(accuracy(bench, whole, 1.0, test), abs=1e-9)


def table_rows():
    rows = []
    for mode in ("nonlinear", "linear"):
        for place, target in enumerate(of.d.name for of in analogies(STYLES)):
            key = ["tiny", 0, mode, "photos+sketches", target]
            rows.append([*key, "zero-shot", 0, np.nan, 100, 0.2 + 0.1 * place])
            rows.append([*key, "analogy", 0, 0.4, 100, 0.4 + 0.1 * place])
            rows.append([*key, "fine-tuned", np.nan, np.nan, 100, 0.6 + 0.1 * place])
            for count in (5, 20) if mode == "nonlinear" else ():
                rows.append([*key, "samples", count, np.nan, 100, 0.3 + 0.01 * count])
                rows.append([*key, "analogy-samples", count, 0.4, 100, 0.5 + 0.01 * count])
    columns = [*ANALOGY_COLUMNS[:3], "styles", *ANALOGY_COLUMNS[3:]]
    return merging_tables.analogies(pd.DataFrame(rows, columns=columns))


def test_the_table_has_a_line_for_each_number_of_images():
    table = table_rows()
    assert table.accuracy_se[0] == pytest.approx(np.sqrt(0.2 * 0.8 / 100))
    text = merging_rendering.render("analogies", table, "markdown")
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    cells = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    assert list(cells)[2:] == [
        "Pre-trained", "Analogy, no image of the target", "5 images of the target",
        "20 images of the target", "Analogy, then 5 images", "Analogy, then 20 images",
        "Fine-tuned on the target",
    ]  # fmt: skip
    assert cells["Pre-trained"] == ["35.0", "–"] * 2
    assert cells["Analogy, no image of the target"] == ["55.0", "0.40"] * 2
    assert cells["Analogy, then 20 images"] == ["70.0", "0.40", "–", "–"]


def test_the_figure_draws_means_over_targets_and_each_target():
    samples, targets = analogy_figures.analogies(table_rows()).axes
    assert [label.get_text() for label in samples.get_xticklabels()] == ["0", "5", "20", "all"]
    lines = [line.get_ydata() for line in samples.lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(lines, [[0.55, 0.55, 0.7], [0.35, 0.35, 0.5]])
    names = [label.get_text() for label in targets.get_xticklabels()]
    assert names == ["photos,\nfirst", "photos,\nsecond", "sketches,\nfirst", "sketches,\nsecond"]
    (legend,) = samples.figure.legends
    texts = {text.get_text() for text in legend.get_texts()}
    assert f"Analogy, {tables.MODES['linear']}" in texts


def test_a_small_sample_is_one_batch(monkeypatch, bench, vectors, tmp_path):
    seen = []

    def spy(variant, encoder, head, images, labels, settings, *rest):
        seen.append((len(labels), settings.batch_size))
        return {variant.name: vectors[Population("photos", 0)]}

    monkeypatch.setattr(module, "train_variant", spy)
    of = populations_of("train")[Population("photos", 0)]
    few = FewShot([3, 20], SETTINGS, lambda name: tmp_path / name, "x")
    few.measure(bench, vectors[Population("photos", 0)], 0.5, of, of)
    assert seen == [(3, 3), (3, 3), (20, SETTINGS.batch_size), (20, SETTINGS.batch_size)]
