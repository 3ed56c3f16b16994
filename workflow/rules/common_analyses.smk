"""What the rules of the analyses share: which ones are configured, and functions of wildcards."""

from task_arithmetic.config import changed_finetuning

ANALYSES = config.get("analyses", {})
# Figures by the analysis that they belong to, and the table that they are drawn from.
ANALYSIS_FIGURES = {
    "linear_regime": {"linear_regime": ["linear_regime"]},
    "disentanglement": {
        "disentanglement_planes": ["disentanglement"],
        "disentanglement_diagonals": ["disentanglement"],
    },
    "initialization": {
        "initialization": ["initialization"],
        "emergence": ["initialization", "initialization_disentanglement"],
    },
    "kernel": {"kernel": ["kernel"]},
    "costs": {"costs": ["costs"]},
}
FINDINGS = {
    figure: tables
    for analysis in ANALYSES
    for figure, tables in ANALYSIS_FIGURES[analysis].items()
}
# Tables that are the rows of several jobs, one after another.
COLLECTED = [
    "disentanglement",
    "initialization",
    "initialization_disentanglement",
    "kernel",
    "costs",
]
INITIALIZATION = {
    "tasks": TASKS,
    "steps": [],
    "negation": False,
    **ANALYSES.get("initialization", {}),
}
# Where θ0 is taken from: random weights, checkpoints of pre-training, and its end.
STARTS = [*(f"step-{step}" for step in INITIALIZATION["steps"]), "pretrained"]
START_TASKS = sorted(INITIALIZATION["tasks"])
KERNEL_TASKS = sorted(
    {t for p in ANALYSES.get("kernel", {}).get("pairs", []) for t in p}
)
START_CONTROLS = [config["control"]] if INITIALIZATION["negation"] else []
PROBED = sorted({*START_TASKS, *KERNEL_TASKS, *START_CONTROLS})


wildcard_constraints:
    # An empty constraint would be none.
    finding="|".join(FINDINGS) or "none",
    collected="|".join(COLLECTED),
    start=r"step-\d+|pretrained",
    step=r"\d+",


def get_analysis_tables():
    """Return the tables of the configured analyses."""
    tables = {table for tables in FINDINGS.values() for table in tables}
    return expand("<results>/tables/{table}.csv", table=sorted(tables))


def get_analysis_figures():
    """Return the figures of the configured analyses in all formats."""
    return expand(
        "<results>/figures/{finding}.{format}", finding=FINDINGS, format=["png", "pdf"]
    )


def get_finding_tables(wildcards):
    """Return the tables that a figure is drawn from."""
    return expand("<results>/tables/{table}.csv", table=FINDINGS[wildcards.finding])


def get_collected_parts(wildcards):
    """Return the files whose rows make a table."""
    if wildcards.collected == "disentanglement":
        return expand(
            "<results>/analyses/{model}/{seed}/{mode}/disentanglement.csv",
            model=config["models"],
            seed=config["seeds"],
            mode=config["modes"],
        )
    if wildcards.collected == "kernel":
        ends = ["step-0", "pretrained"]
        return expand(
            "<results>/starts/{model}/{start}/kernel.csv",
            model=config["models"],
            start=ends,
        )
    if wildcards.collected == "costs":
        return expand(
            "<results>/analyses/{model}/{seed}/costs.csv",
            model=config["models"],
            seed=config["seeds"],
        )
    return get_start_parts(
        {
            "initialization": "accuracies",
            "initialization_disentanglement": "disentanglement",
        }[wildcards.collected]
    )


def get_collected_settings(wildcards):
    """Return which table is collected."""
    return canonical_json({"table": wildcards.collected})


def get_finding_settings():
    """Return what tables and figures of analyses depend on: the tasks in their order."""
    return canonical_json({"tasks": config["tasks"]})


def get_linear_weights_settings(wildcards):
    """Return what is measured of the network at the weights of linearized fine-tuning."""
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "tasks": TASKS,
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_linear_regime_inputs():
    """Return the accuracies of fine-tuned networks and of their first-order models."""
    at_linear = (
        "<results>/analyses/{model}/{seed}/linear_weights.csv"
        if "linear" in config["modes"]
        else []
    )
    return [
        *get_edit_files(SINGLES, "accuracy"),
        *expand(at_linear, model=config["models"], seed=config["seeds"]),
    ]


def get_disentanglement_settings(mode):
    """Return a function of wildcards that gives where the errors of a mode are measured."""

    def get_settings(wildcards):
        tangent = mode != "nonlinear"
        found = wildcards.tangent_mode if tangent else mode
        return canonical_json(
            {
                "model": wildcards.model,
                "seed": int(wildcards.seed),
                "mode": found,
                "tasks": TASKS,
                **ANALYSES["disentanglement"],
                **(
                    {"vector_mode": VECTOR_MODES[found]}
                    if tangent
                    else {"batch_size": config["evaluation"]["batch_size"]}
                ),
            }
        )

    return get_settings


def get_checkpoint_settings(wildcards):
    """Return a model's pre-training, none if it is not known, and the step to end it at."""
    model = config["models"][wildcards.model]
    return canonical_json(
        {
            "model": wildcards.model,
            "architecture": model["architecture"],
            "preprocess": model.get("preprocess", {}),
            "pretraining": model.get("pretraining"),
            "step": int(wildcards.step),
        }
    )


def get_start_encoder(wildcards):
    """Return θ0: the experiment's, a given checkpoint of its pre-training, or one made here."""
    if wildcards.start == "pretrained":
        return "<results>/encoders/{model}/encoder.safetensors"
    step = int(wildcards.start.removeprefix("step-"))
    model = config["models"][wildcards.model]
    if step and model["weights"] != "pretrain" and "checkpoints" in model:
        return model["checkpoints"].format(step=step)
    return f"<results>/pretrained/{{model}}/step-{step}.safetensors"


def get_probe_settings(wildcards):
    """Return the datasets whose heads are trained."""
    return canonical_json(
        {
            "model": wildcards.model,
            "datasets": PROBED,
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_start_vectors_settings(wildcards):
    """Return the fine-tuning protocol of each task."""
    seeded = {"mode": wildcards.vector_mode, "seed": int(wildcards.seed)}
    return canonical_json(
        {
            "model": wildcards.model,
            "start": wildcards.start,
            "hyperparameters": {
                task: {
                    **seeded,
                    **changed_finetuning(
                        config,
                        wildcards.model,
                        config["datasets"][task].get("finetuning", {}),
                        INITIALIZATION.get("finetuning", {}),
                    ),
                }
                for task in START_TASKS
            },
        }
    )


def is_end(start):
    """Return whether a θ0 is an end of pre-training, where the whole experiment is made."""
    return start in ("step-0", "pretrained")


def get_start_modes(start):
    """Return the modes compared at a θ0: between the ends only those configured."""
    return config["modes"] if is_end(start) else INITIALIZATION["modes"]


def get_start_edits_datasets(wildcards):
    """Return what the edits of a θ0 are measured on: negations, with a control, at the ends."""
    return [*START_TASKS, *(START_CONTROLS if is_end(wildcards.start) else [])]


def get_start_edits_settings(wildcards):
    """Return the edits of a θ0, and where their disentanglement is measured."""
    keys = ("diagonal", "images")
    control = next(iter(START_CONTROLS if is_end(wildcards.start) else []), None)
    return canonical_json(
        {
            "model": wildcards.model,
            "start": wildcards.start,
            "seed": int(wildcards.seed),
            "modes": {
                mode: VECTOR_MODES[mode] for mode in get_start_modes(wildcards.start)
            },
            "tasks": START_TASKS,
            "control": control,
            "control_threshold": config["control_threshold"],
            "alphas": config["coefficients"],
            **{key: INITIALIZATION[key] for key in keys},
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_start_edits_inputs(wildcards):
    """Return the files that decide the accuracies of the edits of a θ0, by name."""
    datasets = get_start_edits_datasets(wildcards)
    return {
        "encoder": get_start_encoder(wildcards),
        "vectors": expand(
            "<results>/starts/{{model}}/{{start}}/{{seed}}/{mode}/{task}.safetensors",
            mode=sorted({VECTOR_MODES[m] for m in get_start_modes(wildcards.start)}),
            task=START_TASKS,
        ),
        "heads": expand(
            "<results>/starts/{{model}}/{{start}}/heads/{dataset}.safetensors",
            dataset=datasets,
        ),
        "examples": expand(
            "<results>/datasets/{dataset}/{split}.parquet",
            dataset=datasets,
            split=["validation", "test"],
        ),
    }


def get_start_parts(name):
    """Return one kind of file of all θ0, over all models and seeds."""
    return expand(
        "<results>/starts/{model}/{start}/{seed}/{name}.csv",
        model=config["models"],
        start=STARTS,
        seed=config["seeds"],
        name=name,
    )


def get_kernel_settings(wildcards):
    """Return the pairs of tasks whose kernels are computed, and on how many images."""
    return canonical_json(
        {
            "model": wildcards.model,
            "start": wildcards.start,
            "tasks": KERNEL_TASKS,
            **ANALYSES["kernel"],
        }
    )


def get_costs_settings(wildcards):
    """Return the modes whose costs are compared, with the kind of their task vectors."""
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "modes": {mode: VECTOR_MODES[mode] for mode in config["modes"]},
        }
    )


def get_costs_inputs(wildcards):
    """Return the files whose records tell what the modes of a model and seed cost, by name."""
    place = f"edits/{wildcards.model}/{wildcards.seed}/"
    curves = get_edit_files(EDITS, "validation") + get_edit_files(EDITS, "test")
    tangent = set(config["modes"]) & set(TANGENT_MODES)
    return {
        "checkpoints": expand(
            "<results>/checkpoints/{{model}}/{{seed}}/{mode}/{task}.safetensors",
            mode=sorted({VECTOR_MODES[mode] for mode in config["modes"]}),
            task=TASKS,
        ),
        "features": expand(
            "<results>/features/{{model}}/{{seed}}/{dataset}.json",
            dataset=DATASETS if tangent else [],
        ),
        "curves": [path for path in curves if place in path],
        "tables": expand("<results>/tables/{table}.csv", table=TABLES),
    }
