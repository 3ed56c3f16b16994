"""The story that the report tells: its chapters, and what stands in each of them."""

# Tables, figures and pages by name, with their titles in the report.
STORY = {
    "1 What was run": {
        "run": "Settings and datasets",
        "datasets": "Pictures of the datasets",
        "single_task": "Single-task accuracy",
        "costs": "Costs of the modes",
    },
    "2 Finding one: addition": {
        "task_addition": "Addition of all tasks",
        "addition_curves": "Accuracy against α",
        "single_task_against_edited": "Single-task against edited accuracy",
        "pairs": "Pairs of tasks",
        "subsets": "Subsets of the tasks",
    },
    "3 Finding two: the linear regime": {"linear_regime": "Linear regime"},
    "4 Finding three: disentanglement": {
        "disentanglement": "Disentanglement errors",
        "disentanglement_diagonals": "Errors along the diagonal, all pairs",
        "disentanglement_planes": "Errors in the plane, some pairs",
    },
    "5 Negation": {
        "task_negation": "Negation of each task",
        "negation_curves": "Accuracy against α",
        "negation_baselines": "Baselines",
    },
    "6 Why it works": {
        "initialization": "Random and pre-trained weights",
        "initialization_disentanglement": "Disentanglement along pre-training",
        "emergence": "Emergence along pre-training",
        "kernel": "Eigenfunctions of the tangent kernel",
        "similarity": "Cosines between task vectors",
        "cosine_similarity": "Cosines between task vectors",
    },
    "7 Ablations and methods": {
        "ablations": "Learning rate, training length, seed",
        "merging": "Merging methods",
        "merging_methods": "Merging methods",
        "analogies": "Analogies between sub-populations",
    },
    "8 Provenance": {"provenance": "Where every result comes from"},
}
CHAPTERS = {name: chapter for chapter, results in STORY.items() for name in results}
TITLES = {name: title for results in STORY.values() for name, title in results.items()}


def get_table_names():
    """Return the names of all tables that are made, and whether each is rendered as well."""
    analyses = {table for tables in FINDINGS.values() for table in tables}
    return {
        **dict.fromkeys(analyses, False),
        **dict.fromkeys([*TABLES, *get_configured(MERGING_TABLES)], True),
    }


wildcard_constraints:
    table="|".join(get_table_names()),


def chapter_of(name, shown_as):
    """Return the marks of a result for `report`: where it stands, and what it is called there.

    The name is that of a wildcard whose value names the result, or the result's own.
    """

    def result(wildcards):
        return getattr(wildcards, name, name)

    return {
        "category": lambda wildcards: CHAPTERS[result(wildcards)],
        "labels": lambda wildcards: {
            "result": TITLES[result(wildcards)],
            "shown as": shown_as,
        },
    }


def get_rendered_table(wildcards):
    """Return a table as it is rendered for papers, if it is."""
    rendered = get_table_names()[wildcards.table]
    return f"<results>/tables/{wildcards.table}.md" if rendered else []


def get_page_settings(wildcards):
    """Return the title of a table's page."""
    return canonical_json({"title": TITLES[wildcards.table]})


def get_shown_datasets():
    """Return the datasets in the order in which people read them."""
    others = [name for name in USED_DATASETS if name not in DATASETS]
    return [*config["tasks"], config["control"], *others]


def get_gallery_settings():
    """Return the datasets of which images are shown."""
    return canonical_json({"datasets": get_shown_datasets()})


def get_run_settings(wildcards):
    """Return the whole configuration: the page shows it."""
    return canonical_json({"config": config, "datasets": get_shown_datasets()})


def get_pages():
    """Return all pages of the report."""
    names = [*get_table_names(), "run", "provenance"]
    return [
        *expand("<results>/pages/{name}.html", name=names),
        *expand("<results>/figures/datasets.{format}", format=["png", "pdf"]),
    ]


def get_all_results():
    """Return the tables and figures whose provenance is told."""
    return [
        *expand("<results>/tables/{table}.csv", table=get_table_names()),
        *(
            path
            for path in [
                *get_figures(),
                *get_merging_figures(),
                *get_analysis_figures(),
            ]
            if path.endswith(".png")
        ),
    ]


def get_analysis_results():
    """Return the tables and figures of each configured analysis."""
    made = {
        analysis: (MERGING_TABLES[analysis], MERGING_FIGURES[analysis])
        for analysis in MERGING_TABLES
        if get_configured({analysis: [analysis]})
    }
    for analysis in ANALYSES:
        figures = ANALYSIS_FIGURES[analysis]
        made[analysis] = (sorted({*sum(figures.values(), [])}), [*figures])
    return {
        analysis: [
            *expand("<results>/tables/{table}.csv", table=tables),
            *expand("<results>/figures/{figure}.png", figure=figures),
        ]
        for analysis, (tables, figures) in made.items()
    }
