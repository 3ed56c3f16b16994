"""Functions of the rules that analyse sums of task vectors; an analysis without its section in the
configuration is left out."""

# Analysis: its tables, and its figures.
MERGING_TABLES = {
    "merging": ["merging"],
    "subsets": ["subsets"],
    "similarity": ["similarity"],
    "negation_baselines": ["negation_baselines"],
    "ablations": ["ablations"],
    "analogies": ["analogies"],
}
MERGING_FIGURES = {
    "merging": ["merging_methods"],
    "subsets": ["pairs", "subsets"],
    "similarity": ["cosine_similarity"],
    "negation_baselines": ["negation_baselines"],
    "ablations": ["ablations"],
    "analogies": ["analogies"],
}


wildcard_constraints:
    merging_table="|".join(sum(MERGING_TABLES.values(), [])),
    merging_figure="|".join(sum(MERGING_FIGURES.values(), [])),


def get_mode_vectors(wildcards):
    """Return the task vectors that a mode moves along, one per task."""
    mode = getattr(wildcards, "mode", "nonlinear")
    return expand(
        "<results>/vectors/{{model}}/{{seed}}/{vector_mode}/{task}.safetensors",
        vector_mode=VECTOR_MODES[mode],
        task=TASKS,
    )


def get_mode_singles(wildcards):
    """Return the accuracies of the single-task models of a mode."""
    mode = getattr(wildcards, "mode", getattr(wildcards, "tangent_mode", "nonlinear"))
    return expand(
        "<results>/edits/{{model}}/{{seed}}/{mode}/{place}/accuracy.csv",
        mode=mode,
        place=SINGLES if mode == "nonlinear" else ["all"],
    )


def get_task_files(name):
    """Return one file per task, such as its head or the images of a split."""
    return expand(name, task=TASKS)


def get_merge_settings(wildcards):
    """Return the methods that merge the task vectors of a mode, and the grid of α."""
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "mode": wildcards.mode,
            "tasks": TASKS,
            "methods": config["merging"]["methods"],
            "coefficients": config["merging"]["coefficients"],
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_subsets_settings(wildcards):
    """Return which sums over subsets are measured by network passes."""
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "mode": "nonlinear",
            "tasks": TASKS,
            "coefficients": config["subsets"]["coefficients"],
            "samples": config["subsets"]["samples"],
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_tangent_subsets_settings(wildcards):
    """Return how the sums over all subsets are computed from stored features."""
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "mode": wildcards.tangent_mode,
            "vector_mode": VECTOR_MODES[wildcards.tangent_mode],
            "tasks": TASKS,
            "coefficients": config["subsets"]["coefficients"],
            "grid": config["coefficients"],
            "sweeps": config["subsets"]["sweeps"],
        }
    )


def get_variants(wildcards):
    """Return the variants of a task's fine-tuning that the configured analyses need."""
    variants = {}
    if "negation_baselines" in config:
        variants["ascent"] = {"ascend": True}
    ablations = config.get("ablations", {})
    if wildcards.task in ablations.get("tasks", []):
        for rate in ablations["learning_rates"]:
            variants[f"rate-{rate:g}"] = {"changes": {"learning_rate": rate}}
        variants["reseeded"] = {
            "changes": {"seed": int(wildcards.seed) + ablations["reseed"]},
            "snapshots": ablations["snapshots"],
        }
    return variants


def get_variants_settings(wildcards):
    """Return the ordinary non-linear protocol of a task and the variants of it."""
    return canonical_json(
        {
            "model": wildcards.model,
            "task": wildcards.task,
            "hyperparameters": {
                "mode": "nonlinear",
                "seed": int(wildcards.seed),
                **finetuning_of(config, wildcards.task, wildcards.model),
            },
            "variants": get_variants(wildcards),
        }
    )


def get_baselines_settings(wildcards):
    """Return how the baselines of negation are measured."""
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "tasks": TASKS,
            "control": config["control"],
            "control_threshold": config["control_threshold"],
            "coefficients": config["negation_baselines"]["coefficients"],
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_ablation_tasks():
    """Return the tasks of the ablations, in the order that jobs take them."""
    return sorted(config.get("ablations", {}).get("tasks", []))


def get_ablations_settings(wildcards):
    """Return the runs of the ablations, and the grid of α of their sums."""
    ablations = config["ablations"]
    base = "rate-{:g}".format(config["finetuning"]["learning_rate"])
    rates = [f"rate-{rate:g}" for rate in ablations["learning_rates"]]
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "tasks": get_ablation_tasks(),
            "base": base,
            "rates": [rate for rate in rates if rate != base],
            "snapshots": ablations["snapshots"],
            "coefficients": ablations["coefficients"],
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_ablation_files(name):
    """Return one file per task of the ablations."""
    return expand(name, task=get_ablation_tasks())


def get_seed_files(analysis, name):
    """Return a file of an analysis that has one job per model and seed."""
    return expand(
        "<results>/{analysis}/{model}/{seed}/{name}.csv",
        analysis=analysis,
        model=config["models"],
        seed=config["seeds"],
        name=name,
    )


def get_trained_modes():
    """Return the fine-tuning modes whose vectors the configured modes move along."""
    return sorted({VECTOR_MODES[mode] for mode in config["modes"]})


def get_trained_vectors(wildcards):
    """Return all task vectors, those of all tasks for each fine-tuning mode in turn."""
    return expand(
        "<results>/vectors/{{model}}/{{seed}}/{vector_mode}/{task}.safetensors",
        vector_mode=get_trained_modes(),
        task=TASKS,
    )


def get_similarity_settings(wildcards):
    """Return whose task vectors are compared."""
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "tasks": TASKS,
            "modes": get_trained_modes(),
        }
    )


def get_analysis_files(analysis, name, modes=None):
    """Return one kind of file of an analysis, over all models, seeds and modes."""
    if analysis not in config:
        return []
    return expand(
        "<results>/{analysis}/{model}/{seed}/{mode}/{name}.csv",
        analysis=analysis,
        model=config["models"],
        seed=config["seeds"],
        mode=config["modes"] if modes is None else modes,
        name=name,
    )


def get_merging_table_settings(wildcards):
    """Return which table is made, and the tasks in their configured order."""
    return canonical_json({"table": wildcards.merging_table, "tasks": config["tasks"]})


def get_merging_figure_settings(wildcards):
    """Return which figure is drawn, and the tasks in their configured order."""
    return canonical_json(
        {"figure": wildcards.merging_figure, "tasks": config["tasks"]}
    )


def get_merging_measured(wildcards):
    """Return the measurements that a table of these analyses joins."""
    tangent = [mode for mode in config["modes"] if mode in TANGENT_MODES]
    return {
        "merging": [
            *get_analysis_files("merging", "test"),
            *get_analysis_files("subsets", "ensemble"),
            *get_analysis_files("subsets", "per_task", tangent),
        ],
        "subsets": get_analysis_files("subsets", "subsets"),
        "similarity": get_seed_files("similarity", "cosines"),
        "negation_baselines": get_seed_files("negation_baselines", "test"),
        "ablations": get_seed_files("ablations", "runs"),
        "analogies": get_analogy_files(),
    }[wildcards.merging_table]


def get_merging_figure_tables(wildcards):
    """Return the tables that a figure of these analyses draws."""
    tables = {
        "merging_methods": ["merging"],
        "pairs": ["subsets"],
        "subsets": ["subsets"],
        "cosine_similarity": ["similarity"],
        "negation_baselines": ["negation_baselines", "task_negation"],
        "ablations": ["ablations"],
        "analogies": ["analogies"],
    }[wildcards.merging_figure]
    return expand("<results>/tables/{table}.csv", table=tables)


def get_merging_references(wildcards):
    """Return the tables that a table of these analyses refers to."""
    tables = {
        "merging": ["single_task"],
        "subsets": ["single_task"],
        "negation_baselines": ["task_negation"],
        "ablations": ["single_task"],
    }
    return expand(
        "<results>/tables/{table}.csv", table=tables.get(wildcards.merging_table, [])
    )


def get_configured(outputs):
    """Return the tables or figures of the analyses that the configuration has a section of."""
    # Cosines need no settings, and so no section.
    return [
        name
        for analysis, names in outputs.items()
        if analysis in config or analysis == "similarity"
        for name in names
    ]


def get_merging_tables():
    """Return the tables of the configured analyses in all formats."""
    return expand(
        "<results>/tables/{table}.{format}",
        table=get_configured(MERGING_TABLES),
        format=["csv", "md", "tex"],
    )


def get_merging_figures():
    """Return the figures of the configured analyses in all formats."""
    return expand(
        "<results>/figures/{figure}.{format}",
        figure=get_configured(MERGING_FIGURES),
        format=["png", "pdf"],
    )
