"""Commands that bring data in: what it costs, its download, and a task's splits."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from task_arithmetic.artifacts import PipelineError, write_json
from task_arithmetic.cli_options import Log, files, logger, one_file, settings_of, start
from task_arithmetic.config import local_files
from task_arithmetic.lineage import recorded_step

app = typer.Typer()


@app.command()
def download_costs(
    config: Annotated[
        Path, typer.Argument(help="Configuration of the experiment.", exists=True, dir_okay=False)
    ],
    folder: Annotated[Path, one_file("Folder of all downloads.")] = Path("downloads"),
) -> None:
    """Say what fetching an experiment's data sets costs in disk, and whether there is room."""
    start(None, online=True)
    import yaml
    from rich.console import Console
    from rich.table import Table

    from task_arithmetic.config import check_config
    from task_arithmetic.downloads import MEGABYTE, check_disk, cost_of

    read = yaml.safe_load(config.read_text(encoding="utf-8"))
    check_config(read, str(config))
    used = sorted({*read["tasks"], read["control"]})
    sources = {name: read["datasets"][name]["source"] for name in used}
    found = [cost_of(name, source, folder) for name, source in sources.items() if "hub" in source]
    table = Table("data set", "from", "MB", "to fetch", title="Data sets on the hub")
    for cost in found:
        about = "about " if cost.stated else ""
        sizes = (f"{about}{size / MEGABYTE:,.0f}" for size in (cost.size, cost.missing))
        table.add_row(cost.dataset, cost.repo, *sizes)
    weights = _weights_to_fetch(read)
    for model, size in weights.items():
        table.add_row(f"weights of {model}", "", f"about {size / MEGABYTE:,.0f}", "")
    total, missing = (
        sum(getattr(cost, field) for cost in found) / MEGABYTE for field in ("size", "missing")
    )
    table.add_row("all data sets", "", f"{total:,.0f}", f"{missing:,.0f}")
    console = Console()
    console.print(table)
    console.print(f"The experiment keeps its splits of them in another {total:,.0f} MB.")
    check_disk(found, folder)


def _weights_to_fetch(config: dict[str, Any]) -> dict[str, float]:
    """Return the bytes of the weights that come from a hub, by model, where they can be told."""
    from task_arithmetic.architectures import resolve_architecture
    from task_arithmetic.estimates import FLOAT, clip_parameters

    sizes = {
        name: clip_parameters(resolve_architecture(model["architecture"]))
        for name, model in config["models"].items()
        if {"pretrained", "hub"} & set(model["weights"])
    }
    return {name: FLOAT * size for name, size in sizes.items() if size is not None}


@app.command()
def plan(
    target: Annotated[str, typer.Argument(help="Rule or file.")] = "all_tables",
    configfile: Annotated[
        Path | None,
        typer.Option(help="Configuration of the experiment; config.yaml by default."),
    ] = None,
) -> None:
    """Say what an experiment costs as a whole: jobs by rule, GPU hours, disk."""
    start(None)
    from task_arithmetic import estimates
    from task_arithmetic.plan import present_jobs

    jobs, read = present_jobs(configfile, target)
    print(estimates.render_costs(estimates.costs(jobs, read), read["planning"]["tflops"]))


@app.command()
def download(
    settings: Annotated[Any, settings_of("dataset", "source")],
    folder: Annotated[Path, one_file("Folder of all downloads.")],
    manifest: Annotated[Path, one_file("Manifest to write: the files and their hashes.")],
    log: Log = None,
) -> None:
    """Fetch the files of a data set from a hub; goes on where an earlier attempt ended."""
    start(log, online=True)
    from task_arithmetic.downloads import check_disk, cost_of, fetch_splits

    outputs: list[Path] = []
    with recorded_step("download", settings, ("downloads",), [], outputs) as step:
        name, source = settings["dataset"], settings["source"]
        check_disk([cost_of(name, source, folder)], folder)
        content, fetched = fetch_splits(name, source, folder)
        write_json(manifest, content)
        outputs += [*fetched, manifest]
        step.facts |= {"commit": content["commit"]}
        logger.info("%s: %d files of commit %s", name, len(fetched), content["commit"])


@app.command()
def dataset(
    settings: Annotated[Any, settings_of("dataset", "source", "validation")],
    train: Annotated[Path, one_file("Parquet file to write: training images.")],
    validation: Annotated[Path, one_file("Parquet file to write: validation images.")],
    test: Annotated[Path, one_file("Parquet file to write: test images.")],
    manifest: Annotated[Any, files("Manifest of the download of a hub's data set; or none.")] = "",
    log: Log = None,
) -> None:
    """Load or generate a task and write its three splits as parquet."""
    start(log)
    from task_arithmetic.datasets import make_splits
    from task_arithmetic.downloads import read_manifest
    from task_arithmetic.splits import write_split

    name, source = settings["dataset"], settings["source"]
    if "hub" in source and not manifest:
        raise PipelineError(f"{name}: expected the manifest of its download, found none")
    downloaded = read_manifest(manifest[0], name) if manifest else None
    fetched = [path for paths in (downloaded or {}).values() for path in paths]
    inputs = [*manifest, *local_files(source), *dict.fromkeys(fetched)]
    outputs = {"train": train, "validation": validation, "test": test}
    train.parent.mkdir(parents=True, exist_ok=True)
    with (
        recorded_step("dataset", settings, ("datasets",), inputs, list(outputs.values())),
        # Beside the splits, where there must be room for the images anyway.
        TemporaryDirectory(dir=train.parent, prefix=".scratch-") as scratch,
    ):
        rule = settings["validation"]
        splits = make_splits(name, source, rule, Path(scratch), downloaded)
        for split, data in splits.items():
            write_split(outputs[split], data)
            logger.info("%s: %d %s images", name, len(data), split)
