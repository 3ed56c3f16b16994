"""Commands of the analogies: fine-tuning the sub-populations, and measuring on the target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import write_csv
from task_arithmetic.cli_options import (
    Log,
    Memory,
    Threads,
    augmentation_of,
    files,
    fingerprint_of,
    one_file,
    read_examples,
    read_head,
    settings_of,
    start,
)
from task_arithmetic.lineage import recorded_step

app = typer.Typer()
ANALOGY_KEYS = (
    "model", "seed", "mode", "styles", "coefficients", "samples", "hyperparameters", "batch_size",
)  # fmt: skip


@app.command()
def analogy_vectors(
    settings: Annotated[Any, settings_of("model", "styles", "hyperparameters")],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    heads: Annotated[Any, files("Zero-shot heads of the two datasets.")],
    train: Annotated[Any, files("Training images of the two datasets.")],
    output: Annotated[Path, one_file("Task vectors to write.")],
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Fine-tune on each half of the classes in each of two styles; resumes each."""
    start(log, threads)
    from task_arithmetic.analogies import sub_populations
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.finetune import FinetuneSettings
    from task_arithmetic.variants import Variant, resume_path, save_variants, train_variants

    inputs, modules = [encoder, *heads, *train], ("analogies",)
    with recorded_step("analogy-vectors", settings, modules, inputs, [output]):
        protocol, styles = FinetuneSettings(**settings["hyperparameters"]), settings["styles"]
        base, fingerprint = load_encoder(encoder), fingerprint_of(settings, modules, inputs)
        reading = (heads, base.preprocess, threads, memory_mb)
        seen = read_examples(styles, "train", train, *reading, **augmentation_of(protocol))
        populations = sub_populations(seen, _class_names(styles, heads))
        made = train_variants(
            (
                (Variant(population.name), of.head, of.images, of.labels)
                for population, of in populations.items()
            ),
            base,
            protocol,
            output,
            fingerprint,
        )
        save_variants(output, made, {"model": settings["model"], "mode": protocol.mode})
    for population in populations:
        resume_path(output, population.name).unlink(missing_ok=True)


@app.command()
def analogies(
    settings: Annotated[Any, settings_of(*ANALOGY_KEYS)],
    encoder: Annotated[Path, one_file("Encoder file θ0.")],
    vectors: Annotated[Path, one_file("Task vectors of the four sub-populations.")],
    heads: Annotated[Any, files("Zero-shot heads of the two datasets.")],
    validation: Annotated[Any, files("Validation images of the two datasets.")],
    test: Annotated[Any, files("Test images of the two datasets.")],
    output: Annotated[Path, one_file("CSV to write: test accuracies on each target.")],
    train: Annotated[Any, files("Their training images, to take samples from.")] = "",
    threads: Threads = 1,
    memory_mb: Memory = 16000,
    log: Log = None,
) -> None:
    """Measure each analogy on its target, and with samples also after training on few images."""
    start(log, threads)
    import pandas as pd

    from task_arithmetic.analogies import FewShot, measure_analogy, sub_populations
    from task_arithmetic.analogies import analogies as analogies_of
    from task_arithmetic.encoders import load_encoder
    from task_arithmetic.finetune import FinetuneSettings
    from task_arithmetic.measuring import Bench
    from task_arithmetic.variants import load_variant

    inputs, modules = [encoder, vectors, *heads, *validation, *test, *train], ("analogies",)
    with recorded_step("analogies", settings, modules, inputs, [output]):
        seed, mode, styles = settings["seed"], settings["mode"], settings["styles"]
        bench = Bench(load_encoder(encoder), seed, mode, settings["batch_size"])
        # All splits stay while models are trained and measured.
        reading = (heads, bench.encoder.preprocess, threads, memory_mb / 3)
        class_names, states = _class_names(styles, heads), []
        seen = sub_populations(
            read_examples(styles, "validation", validation, *reading), class_names
        )
        unseen = sub_populations(read_examples(styles, "test", test, *reading), class_names)
        taus = {population: load_variant(vectors, population.name) for population in seen}
        few, grid, rows = None, settings["coefficients"], []
        if settings["samples"]:
            protocol = FinetuneSettings(**settings["hyperparameters"])
            whole = read_examples(styles, "train", train, *reading, **augmentation_of(protocol))
            pool = sub_populations(whole, class_names)

            def resume_path(name: str) -> Path:
                states.append(output.with_suffix(f".{name}.resume.safetensors"))
                return states[-1]

            fingerprint = fingerprint_of(settings, modules, inputs)
            few = FewShot(settings["samples"], protocol, resume_path, fingerprint)
        for analogy in analogies_of(styles):
            rows.append(measure_analogy(bench, analogy, taus, grid, seen, unseen))
            if few:
                edit, d = analogy.vector(taus), analogy.d
                (alpha,) = rows[-1]["alpha"].dropna()
                rows.append(few.measure(bench, edit, alpha, pool[d], unseen[d]))
        table = pd.concat(rows, ignore_index=True)
        table.insert(3, "styles", "+".join(styles))
        write_csv(output, table)
    for state in states:
        state.unlink(missing_ok=True)


def _class_names(styles: list[str], heads: list[Path]) -> dict[str, list[str]]:
    return {style: read_head(path, style)[1] for style, path in zip(styles, heads, strict=True)}
