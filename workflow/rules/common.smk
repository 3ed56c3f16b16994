"""What the rules share: the checked configuration, wildcards, and functions of wildcards."""

import os
import sys
from pathlib import Path

from task_arithmetic.architectures import vocabulary_file
from task_arithmetic.artifacts import PipelineError, canonical_json
from task_arithmetic.config import (
    check_config,
    check_duplicate_keys,
    finetuning_of,
    local_files,
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


def get_source(name):
    """Return where a dataset comes from."""
    return config["datasets"][name]["source"]


def get_source_files(wildcards):
    """Return the local files that a dataset is read from."""
    return [str(path) for path in local_files(get_source(wildcards.dataset))]


def get_manifest(wildcards):
    """Return the manifest of a dataset's download; the others have none."""
    hub = "hub" in get_source(wildcards.dataset)
    return ["<results>/downloads/{dataset}.json"] if hub else []


def get_downloads():
    """Return what is fetched from a hub: datasets, weights, and checkpoints to import."""
    fetched = [name for name in USED_DATASETS if "hub" in get_source(name)]
    models = config["models"]
    weights = [name for name in models if is_downloaded(models[name]["weights"])]
    checkpoints = [
        f"<results>/downloads/{model}/{mode}/{task}.weights"
        for task in TASKS
        for model, by_mode in config["datasets"][task].get("checkpoints", {}).items()
        for mode, source in by_mode.items()
        if is_downloaded(source)
    ]
    return [
        *expand("<results>/downloads/{dataset}.json", dataset=fetched),
        *expand("<results>/downloads/{model}/encoder.weights", model=weights),
        *checkpoints,
    ]


def get_dataset_download_settings(wildcards):
    """Return what is fetched: what a dataset's columns are called does not matter here."""
    keys = ("hub", "revision", "config", "splits", "size_mb")
    source = get_source(wildcards.dataset)
    return canonical_json(
        {
            "dataset": wildcards.dataset,
            "source": {key: source[key] for key in keys if key in source},
        }
    )


def get_dataset_settings(wildcards):
    """Return a dataset's own slice of the configuration, without what only estimates take."""
    source = get_source(wildcards.dataset)
    estimates = ("size_mb", "images")
    return canonical_json(
        {
            "dataset": wildcards.dataset,
            "source": {key: source[key] for key in source if key not in estimates},
            "validation": config["validation"],
        }
    )


def is_downloaded(source):
    """Return whether weights come from a hub, and not from a file or from here."""
    return source != "pretrain" and bool({"pretrained", "hub"} & set(source))


def get_vocabulary(wildcards):
    """Return the file of a model's tokenizer, if it has one of its own."""
    file = vocabulary_file(config["models"][wildcards.model]["architecture"])
    return [] if file is None else [f"workflow/{file}"]


def get_encoder_weights(wildcards):
    """Return the weights to adopt: pre-trained here, downloaded, given, or none."""
    weights = config["models"][wildcards.model]["weights"]
    if weights == "pretrain":
        return rules.pretrain.output.encoder
    if is_downloaded(weights):
        return rules.download_weights.output.weights
    return weights.get("file", [])


def get_encoder_description(wildcards):
    """Return what is known of downloaded weights."""
    weights = config["models"][wildcards.model]["weights"]
    return rules.download_weights.output.description if is_downloaded(weights) else []


def get_encoder_settings(wildcards):
    """Return what decides whether weights fit the configured model, and how it sees images."""
    model = config["models"][wildcards.model]
    weights = model["weights"]
    return canonical_json(
        {
            "model": wildcards.model,
            "architecture": model["architecture"],
            "preprocess": model.get("preprocess", {}),
            "random_init": (
                None if weights == "pretrain" else weights.get("random_init")
            ),
        }
    )


def get_weights_download_settings(wildcards):
    """Return where a model's weights are downloaded from, and for what architecture."""
    model = config["models"][wildcards.model]
    return get_hub_slice(model["architecture"], model["weights"])


def get_checkpoint_download_settings(wildcards):
    """Return where a task's fine-tuned weights are downloaded from."""
    architecture = config["models"][wildcards.model]["architecture"]
    return get_hub_slice(architecture, get_imported(wildcards))


def get_hub_slice(architecture, source):
    """Return what a download of weights needs to know."""
    keys = ("pretrained", "hub", "revision", "file")
    return canonical_json(
        {
            "architecture": architecture,
            "source": {key: source[key] for key in keys if key in source},
        }
    )


def get_pretraining_settings(wildcards):
    """Return a model's architecture and pre-training."""
    model = config["models"][wildcards.model]
    keys = ("architecture", "preprocess", "pretraining")
    return canonical_json(
        {"model": wildcards.model, **{key: model[key] for key in keys}}
    )


def get_head_settings(wildcards):
    """Return a dataset's prompts."""
    dataset = config["datasets"][wildcards.dataset]
    return canonical_json(
        {
            "model": wildcards.model,
            "dataset": wildcards.dataset,
            "templates": dataset["templates"],
            "class_names": dataset.get("class_names"),
        }
    )


def get_finetune_settings(wildcards):
    """Return the fine-tuning protocol of one task, mode and seed."""
    return canonical_json(
        {
            "model": wildcards.model,
            "task": wildcards.task,
            "hyperparameters": {
                "mode": wildcards.vector_mode,
                "seed": int(wildcards.seed),
                **finetuning_of(config, wildcards.task, wildcards.model),
            },
        }
    )


def get_imported(wildcards):
    """Return where a task's fine-tuned weights are imported from; None if they are trained."""
    by_model = config["datasets"][wildcards.task].get("checkpoints", {})
    return by_model.get(wildcards.model, {}).get(wildcards.vector_mode)


def get_foreign_checkpoint(wildcards):
    """Return the file to import: downloaded or given."""
    source = get_imported(wildcards)
    if is_downloaded(source):
        return rules.download_checkpoint.output.weights
    return source["file"]


def get_import_settings(wildcards):
    """Return what an imported checkpoint is."""
    return canonical_json(
        {
            "model": wildcards.model,
            "task": wildcards.task,
            "mode": wildcards.vector_mode,
        }
    )


def get_checkpoint(wildcards):
    """Return the fine-tuned weights of a task: imported if the configuration says so."""
    if get_imported(wildcards):
        return rules.import_checkpoint.output.checkpoint
    return rules.finetune.output.checkpoint


def get_tangent_vectors(wildcards):
    """Return the names MODE/TASK of all vectors that the configured tangent modes need."""
    modes = {VECTOR_MODES[mode] for mode in config["modes"] if mode in TANGENT_MODES}
    return [f"{mode}/{task}" for mode in sorted(modes) for task in TASKS]


def get_tangent_vector_files(wildcards):
    """Return the files of all vectors that the configured tangent modes need."""
    return expand(
        "<results>/vectors/{model}/{seed}/{vector}.safetensors",
        model=wildcards.model,
        seed=wildcards.seed,
        vector=get_tangent_vectors(wildcards),
    )


def get_features_settings(wildcards):
    """Return what a feature job computes: f0 and every Jτ on the evaluated splits."""
    return canonical_json(
        {
            "dataset": wildcards.dataset,
            "splits": ["validation", "test"],
            "vectors": get_tangent_vectors(wildcards),
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_weights(edit):
    """Return the weight of each task vector in an edit."""
    kind, _, task = edit.partition("-")
    return {
        "single": {task: 1},
        "negation": {task: -1},
        "addition": dict.fromkeys(TASKS, 1),
    }[kind]


def get_evaluated_datasets(edit):
    """Return the datasets on which an edit is evaluated."""
    control = [config["control"]] if edit.startswith("negation-") else []
    return [*get_weights(edit), *control]


def get_splits(curve):
    """Return the splits that a curve is measured on."""
    return ["validation", "test"] if curve == "accuracy" else [curve]


def get_alphas(curve):
    """Return the coefficients of a curve; those of a test curve come from the selection."""
    return {"accuracy": [0.0, 1.0], "validation": config["coefficients"], "test": []}[
        curve
    ]


def get_nonlinear_curve_settings(wildcards):
    """Return one edit, the splits it is evaluated on, and its coefficients."""
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "mode": "nonlinear",
            "edit": wildcards.edit,
            "weights": get_weights(wildcards.edit),
            "datasets": get_evaluated_datasets(wildcards.edit),
            "splits": get_splits(wildcards.curve),
            "alphas": get_alphas(wildcards.curve),
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_nonlinear_curve_inputs(wildcards):
    """Return the files that decide an edit's accuracies, by name."""
    datasets = get_evaluated_datasets(wildcards.edit)
    return {
        "encoder": "<results>/encoders/{model}/encoder.safetensors",
        "vectors": expand(
            "<results>/vectors/{{model}}/{{seed}}/nonlinear/{task}.safetensors",
            task=sorted(get_weights(wildcards.edit)),
        ),
        "heads": expand(
            "<results>/heads/{{model}}/{dataset}.safetensors", dataset=datasets
        ),
        "examples": expand(
            "<results>/datasets/{dataset}/{split}.parquet",
            dataset=datasets,
            split=get_splits(wildcards.curve),
        ),
        "selection": get_selection(wildcards, "nonlinear/{edit}"),
    }


def get_tangent_curve_settings(wildcards):
    """Return all edits of a tangent mode, the splits, and the coefficients."""
    edits = SINGLES if wildcards.curve == "accuracy" else EDITS
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "mode": wildcards.tangent_mode,
            "vector_mode": VECTOR_MODES[wildcards.tangent_mode],
            "edits": {
                edit: {
                    "weights": get_weights(edit),
                    "datasets": get_evaluated_datasets(edit),
                }
                for edit in edits
            },
            "datasets": DATASETS,
            "splits": get_splits(wildcards.curve),
            "alphas": get_alphas(wildcards.curve),
        }
    )


def get_tangent_selection(wildcards):
    """Return the selections that a test curve of a tangent mode takes its coefficients from."""
    return get_selection(wildcards, "{tangent_mode}/all")


def get_selection(wildcards, place):
    """Return the selection file of a test curve; the other curves have none."""
    file = f"<results>/edits/{{model}}/{{seed}}/{place}/selection.csv"
    return [file] if wildcards.curve == "test" else []


def get_single_accuracies(wildcards):
    """Return the single-task accuracies that an addition is normalized by."""
    if wildcards.edit == "all":
        return "<results>/edits/{model}/{seed}/{mode}/all/accuracy.csv"
    singles = SINGLES if wildcards.edit == "addition" else []
    return expand(
        "<results>/edits/{{model}}/{{seed}}/{{mode}}/{edit}/accuracy.csv", edit=singles
    )


def get_selection_settings(wildcards):
    """Return the rule by which each edit's coefficient is chosen; none for the addition's."""
    edits = EDITS if wildcards.edit == "all" else [wildcards.edit]
    rules_of_edits = {
        edit: {
            "target": edit.removeprefix("negation-"),
            "control": config["control"],
            "control_threshold": config["control_threshold"],
        }
        for edit in edits
    }
    if "addition" in rules_of_edits:
        rules_of_edits["addition"] = {}
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "mode": wildcards.mode,
            "rules": rules_of_edits,
        }
    )


def get_edit_files(edits, name):
    """Return one kind of file for some edits, over all models, seeds and modes."""
    # A non-linear edit costs network passes and has a job of its own; all edits of a tangent mode
    # are sums of stored features, and share one.
    places = [
        f"{mode}/{edit}"
        for mode in config["modes"]
        for edit in (edits if mode == "nonlinear" else ["all"])
    ]
    return expand(
        "<results>/edits/{model}/{seed}/{place}/{name}.csv",
        model=config["models"],
        seed=config["seeds"],
        place=places,
        name=name,
    )


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
