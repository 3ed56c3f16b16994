"""What the rules of the analyses share: which ones are configured, and functions of wildcards."""

ANALYSES = config.get("analyses", {})
# Figures by the analysis that they belong to, and the table that they are drawn from.
ANALYSIS_FIGURES = {
    "linear_regime": {"linear_regime": "linear_regime"},
    "disentanglement": {
        "disentanglement_planes": "disentanglement",
        "disentanglement_diagonals": "disentanglement",
    },
}
FINDINGS = {
    figure: table
    for analysis in ANALYSES
    for figure, table in ANALYSIS_FIGURES[analysis].items()
}


wildcard_constraints:
    finding="|".join(FINDINGS),


def get_analysis_tables():
    """Return the tables of the configured analyses."""
    return expand("<results>/tables/{table}.csv", table=sorted({*FINDINGS.values()}))


def get_analysis_figures():
    """Return the figures of the configured analyses in all formats."""
    return expand(
        "<results>/figures/{finding}.{format}", finding=FINDINGS, format=["png", "pdf"]
    )


def get_finding_table(wildcards):
    """Return the table that a figure is drawn from."""
    return f"<results>/tables/{FINDINGS[wildcards.finding]}.csv"


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
