"""What the rules share: the checked configuration, wildcards, and functions of wildcards."""

import os
import sys
from pathlib import Path

from task_arithmetic.artifacts import PipelineError, canonical_json
from task_arithmetic.config import (
    check_config,
    check_duplicate_keys,
    finetuning_of,
    style_datasets,
)
from task_arithmetic.estimates import costs, render_costs
from task_arithmetic.lineage import code_digest
from task_arithmetic.plan import planned_job

CONFIG_FILES = [str(path) for path in workflow.configfiles]
TABLES = ["single_task", "task_addition", "task_negation"]
FIGURES = ["addition_curves", "negation_curves", "single_task_against_edited"]
# Post-hoc linearization trains nothing: it moves the tangent model along the non-linear vectors.
VECTOR_MODES = {"nonlinear": "nonlinear", "posthoc": "nonlinear", "linear": "linear"}
TANGENT_MODES = ["posthoc", "linear"]
# Caching between workflows is on with --cache, in a folder of the user's unless one is named.
SHARED_CACHE = workflow.workflow_settings.cache is not None
if SHARED_CACHE:
    folder = Path.home() / ".cache" / "task-arithmetic"
    folder = Path(os.environ.setdefault("SNAKEMAKE_OUTPUT_CACHE", str(folder)))
    folder.mkdir(parents=True, exist_ok=True)
# Beside the results of all experiments: what was fetched once serves them all.
DOWNLOADS = "downloads"
COLUMN_STORE = f"results/{config['experiment']}/columns"

try:
    for path in CONFIG_FILES:
        check_duplicate_keys(path)
    check_config(config, " + ".join(CONFIG_FILES) or "config")
except PipelineError as error:
    # One line for the user; a traceback through the workflow would bury it.
    print(error, file=sys.stderr)
    sys.exit(1)

# Jobs take tasks in this order, so that reordering the list in the configuration reruns none.
TASKS = sorted(config["tasks"])
DATASETS = sorted({*config["tasks"], config["control"]})
# Those of the analogies may be no tasks: no edit is evaluated on them.
USED_DATASETS = sorted({*DATASETS, *style_datasets(config)})
EDITS = ["addition", *(f"negation-{task}" for task in TASKS)]
SINGLES = [f"single-{task}" for task in TASKS]


wildcard_constraints:
    model="|".join(config["models"]),
    seed=r"\d+",
    mode="nonlinear|posthoc|linear",
    tangent_mode="|".join(TANGENT_MODES),
    vector_mode="nonlinear|linear",
    task="|".join(TASKS),
    dataset="|".join(USED_DATASETS),
    edit="|".join(["all", *EDITS, *SINGLES]),
    curve="validation|test|accuracy",
    figure="|".join(FIGURES),


def get_table_settings():
    """Return what the tables show: tasks in order, which were imported, published numbers."""
    keys = ("tasks", "control", "control_threshold")
    imported = [
        [model, mode, task]
        for task in TASKS
        for model, by_mode in config["datasets"][task].get("checkpoints", {}).items()
        for mode in config["modes"]
        if VECTOR_MODES[mode] in by_mode
    ]
    shown = {key: config[key] for key in keys}
    return canonical_json(
        {**shown, "imported": imported, "expected": config.get("expected")}
    )


def get_figure_settings():
    """Return what the figures show: the tasks in their configured order."""
    keys = ("tasks", "control", "control_threshold")
    return canonical_json({key: config[key] for key in keys})


def get_figure_inputs(wildcards):
    """Return the curves, selections and tables that a figure draws."""
    tables = {
        "addition_curves": ["single_task"],
        "negation_curves": [],
        "single_task_against_edited": TABLES,
    }[wildcards.figure]
    edits = {
        "addition_curves": ["addition"],
        "negation_curves": [f"negation-{task}" for task in TASKS],
        "single_task_against_edited": [],
    }[wildcards.figure]
    return {
        "curves": get_edit_files(edits, "validation"),
        "selections": get_edit_files(edits, "selection"),
        "tables": expand("<results>/tables/{table}.csv", table=tables),
    }


def get_tables():
    """Return all tables in all formats."""
    return expand(
        "<results>/tables/{table}.{format}", table=TABLES, format=["csv", "md", "tex"]
    )


def get_figures():
    """Return all figures in all formats."""
    return expand(
        "<results>/figures/{figure}.{format}", figure=FIGURES, format=["png", "pdf"]
    )


def show_tables():
    """Print the rendered tables after a run that was asked for them."""
    asked = set(workflow.dag_settings.targets) or {"all_tables"}
    files = expand(
        "results/{e}/tables/{table}.md", e=config["experiment"], table=TABLES
    )
    if asked & {"all_tables", "all"} and all(Path(file).exists() for file in files):
        shell("task-arithmetic show {files}")


def show_costs():
    """Print what a run on a cluster is about to cost."""
    if workflow.local_exec:
        return
    jobs = [planned_job(job) for job in workflow.dag.needrun_jobs()]
    print(render_costs(costs(jobs, config), config["planning"]["tflops"]))
