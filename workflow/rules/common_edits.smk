"""Functions of the rules that make features, curves and selections of edits."""


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
