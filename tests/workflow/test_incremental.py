"""What runs again, and what does not: asserted job by job on dry runs of a finished project."""

import os
import re

from projects import TASKS

TABLES = [f"table {name}" for name in ("single_task", "task_addition", "task_negation")]
TABLES.append("summary of the tables")
FIGURES = [
    f"figure {name}"
    for name in ("addition_curves", "negation_curves", "single_task_against_edited")
]
# All edits of a tangent mode are sums of stored features, and share light jobs.
TANGENT_EDITS = [
    f"{job}, {mode}, seed 0"
    for job in (
        "accuracy curves of all edits",
        "validation curves of all edits",
        "test curves of all edits",
        "selection of all",
    )
    for mode in ("posthoc", "linear")
]
# Of the analyses only this one is always there; the others have tests of their own.
SIMILARITY = [
    "cosine similarity of task vectors, seed 0",
    "table similarity",
    "figure cosine_similarity",
]
# Pages that show what the papers' tables, the settings and the records say.
PAGES = [
    *(f"page of {table}" for table in TABLES if table.startswith("table")),
    "page of what was run",
    "page of the provenance",
]
SIMILARITY_PAGE = "page of table similarity"
PICTURES = "pictures of the datasets"
AGGREGATES = [
    *TANGENT_EDITS,
    *TABLES,
    *FIGURES,
    *SIMILARITY,
    *PAGES,
    SIMILARITY_PAGE,
]
TRAINED = ("nonlinear", "linear")


def trainings(task, modes=TRAINED):
    return [f"fine-tuning tiny on {task}, {mode}, seed 0" for mode in modes]


def vectors(task):
    return [f"task vector of {task}, {mode}, seed 0" for mode in TRAINED]


def features(*datasets):
    return [f"tangent features of {dataset}, seed 0" for dataset in datasets]


def edit(name):
    """Return the jobs of a non-linear edit."""
    if name.startswith("single-"):
        return [f"accuracy curve of {name}, nonlinear, seed 0"]
    kinds = ("validation curve", "selection", "test curve")
    return [f"{kind} of {name}, nonlinear, seed 0" for kind in kinds]


def edits_of(task):
    return [*edit(f"single-{task}"), *edit(f"negation-{task}")]


def change_source(project, module, old, new):
    path = project.root / "workflow" / "task_arithmetic" / f"{module}.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_finished_project_has_nothing_to_do(finished_project):
    assert finished_project.planned("all") == []


def test_touched_files_run_nothing(project):
    for folder, _, files in os.walk(project.root):
        for name in files:
            if ".snakemake" not in folder:
                os.utime(os.path.join(folder, name))  # noqa: PTH118
    assert project.planned("all") == []


def test_a_new_task_runs_its_own_jobs_and_the_aggregates_only(project):
    project.configure(lambda config: config["tasks"].append("colors"))
    expected = [
        "dataset colors",
        "zero-shot head of colors for tiny",
        *trainings("colors"),
        *vectors("colors"),
        *features("colors", *TASKS, "scenes"),
        *edits_of("colors"),
        *edit("addition"),
        *AGGREGATES,
        PICTURES,
    ]
    assert project.planned("all") == sorted(expected)


def test_a_new_task_costs_every_dataset_one_new_column_per_mode(project):
    project.configure(lambda config: config["tasks"].append("colors"))
    before = {path.name for path in project.result("columns").glob("*/*.safetensors")}
    done = project.run("--cores", "2", "results/embedded/features/tiny/0/scenes.json")
    assert done.returncode == 0, done.stderr
    after = {path.name for path in project.result("columns").glob("*/*.safetensors")}
    # One per trained mode and split (validation, test), in the one dataset that was asked for.
    assert len(after - before) == len(TRAINED) * 2
    assert before <= after
    log = project.result("logs/features/tiny/0/scenes.log").read_text()
    for split in ("validation", "test"):
        assert f"scenes ({split}): computing ['linear/colors', 'nonlinear/colors']" in log


def test_one_learning_rate_reruns_one_task(project):
    def change(config):
        config["datasets"]["digits"]["finetuning"] = {"learning_rate": 1.0e-4}

    project.configure(change)
    expected = [
        *trainings("digits"),
        *vectors("digits"),
        *features(*TASKS, "scenes"),
        *edits_of("digits"),
        *edit("addition"),
        *AGGREGATES,
    ]
    assert project.planned("all") == sorted(expected)


def test_comments_docstrings_and_layout_run_nothing(project):
    for module in ("finetune", "tangent", "encoders"):
        change_source(project, module, '"""', '"""Another docstring. ')
        change_source(project, module, "\nimport ", "\n# a remark\n\nimport ")
    assert project.planned("all") == []


def test_a_changed_loss_reruns_every_training(project):
    change_source(project, "finetune", "F.cross_entropy(", "0.5 * F.cross_entropy(")
    planned = project.planned("all")
    expected = sorted(job for task in TASKS for job in trainings(task))
    assert [job for job in planned if job.startswith("fine-tuning")] == expected
    assert not [job for job in planned if job.startswith(("dataset", "zero-shot", "encoder"))]


def test_a_changed_selection_rule_reruns_no_network(project):
    change_source(project, "coefficients", "idxmax()", "idxmin()")
    planned = project.planned("all")
    assert [job for job in planned if job.startswith("selection")]
    assert not [job for job in planned if re.match("fine-tuning|tangent features|validation", job)]


def test_reordered_tasks_rerun_only_what_is_shown(project):
    project.configure(lambda config: config["tasks"].reverse())
    similarity = [job for job in SIMILARITY if not job.startswith("cosine")]
    shown = [*TABLES, *FIGURES, *similarity, *PAGES, SIMILARITY_PAGE, PICTURES]
    assert project.planned("all") == sorted(shown)


def test_a_second_seed_trains_again_and_reuses_the_pretrained_features(project):
    project.configure(lambda config: config["seeds"].append(1))
    planned = project.planned("all")
    assert [job for job in planned if job.startswith("fine-tuning")] == sorted(
        job.replace("seed 0", "seed 1") for task in TASKS for job in trainings(task)
    )
    assert not [job for job in planned if job.startswith(("dataset", "zero-shot", "encoder"))]
    assert not [job for job in planned if job.endswith("seed 0")]


def test_fewer_coefficients_rerun_curves_without_training(project):
    project.configure(lambda config: config.update(coefficients=[0.0, 1.0]))
    planned = project.planned("all")
    assert {job.split(" of ")[0] for job in planned if job not in TABLES} == {
        "validation curve",
        "validation curves",
        "selection",
        "test curve",
        "test curves",
        "page",
        *FIGURES,
    }
    assert {job for job in planned if job in TABLES} == set(TABLES[1:])


def test_several_changes_at_once_are_all_noticed(project):
    def change(config):
        config["tasks"].append("colors")
        config["coefficients"] = [0.0, 1.0]

    project.configure(change)
    planned = project.planned("all")
    assert set(TANGENT_EDITS) - {"accuracy curves of all edits, linear, seed 0"} <= set(planned)
    for task in TASKS:
        assert set(edit(f"negation-{task}")) <= set(planned)


def test_a_file_replaced_by_other_content_is_noticed(project):
    vectors_of = project.result("vectors/tiny/0/nonlinear")
    (vectors_of / "digits.safetensors").write_bytes(
        (vectors_of / "shapes.safetensors").read_bytes()
    )
    planned = project.planned("all")
    assert "accuracy curve of single-digits, nonlinear, seed 0" in planned
    assert "tangent features of scenes, seed 0" in planned
    assert "accuracy curve of single-shapes, nonlinear, seed 0" not in planned
