"""A real run from data to tables: its numbers against models evaluated by hand, and its files."""

import json
import re

import pandas as pd
import pytest
import torch
from projects import ROOT, TASKS

from task_arithmetic import TaskVector
from task_arithmetic.artifacts import read_json, read_tensors, sha256
from task_arithmetic.encoders import load_encoder
from task_arithmetic.lineage import record_path
from task_arithmetic.loading import read_split

COLUMNS = {
    "single_task": ["model", "seed", "mode", "task", "split", "accuracy", "accuracy_se"],
    "task_addition": [
        "model", "seed", "mode", "task", "alpha", "accuracy", "accuracy_se",
        "normalized_accuracy", "normalized_accuracy_se",
    ],
    "task_negation": [
        "model", "seed", "mode", "task", "alpha", "target_accuracy", "target_accuracy_se",
        "control_accuracy", "control_accuracy_se",
        "pretrained_target_accuracy", "pretrained_target_accuracy_se",
        "pretrained_control_accuracy", "pretrained_control_accuracy_se", "feasible",
    ],
}  # fmt: skip
TORCH_RULES = {"pretrain", "encoder", "head", "finetune", "vector", "features", "nonlinear_curve"}


def table(project, name):
    return pd.read_csv(project.result(f"tables/{name}.csv"))


def measured(project, mode, weights, alpha, dataset):
    """Return the test accuracy of an edit, from its files, by PyTorch's own functions."""
    trained = "linear" if mode == "linear" else "nonlinear"
    encoder = load_encoder(project.result("encoders/tiny/encoder.safetensors"))
    tau = TaskVector.sum(
        weight * TaskVector.load(project.result(f"vectors/tiny/0/{trained}/{task}.safetensors"))
        for task, weight in weights.items()
    )
    head = read_tensors(project.result(f"heads/tiny/{dataset}.safetensors"), "head")[0]["weight"]
    split = read_split(project.result(f"datasets/{dataset}/test.parquet"), 32)
    inputs = encoder.preprocess(torch.from_numpy(split.images.array))
    theta = {name: value.detach() for name, value in encoder.tower.named_parameters()}

    def network(parameters):
        return torch.func.functional_call(encoder.tower, parameters, inputs)

    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        if mode == "nonlinear":
            features = network(tau.apply_to(theta, alpha))
        else:
            step = {name: alpha * tau[name] for name in theta}
            features = sum(torch.func.jvp(network, (theta,), (step,)))
        right = (features @ head.T).argmax(dim=1) == torch.from_numpy(split.labels)
    return right.double().mean().item()


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_have_their_columns_and_fractions(finished_project, name):
    frame = table(finished_project, name)
    assert list(frame.columns) == COLUMNS[name]
    for column in frame.columns[frame.columns.str.endswith("accuracy")]:
        if column != "normalized_accuracy":
            assert frame[column].between(0, 1).all()
    for form in ("md", "tex"):
        assert finished_project.result(f"tables/{name}.{form}").read_text()


@pytest.mark.parametrize("mode", ["nonlinear", "posthoc", "linear"])
def test_added_models_score_what_the_table_says(finished_project, mode):
    frame = table(finished_project, "task_addition")
    rows = frame[frame["mode"] == mode]
    assert rows.task.tolist() == TASKS
    for row in rows.itertuples():
        weights = dict.fromkeys(TASKS, 1)
        expected = measured(finished_project, mode, weights, row.alpha, row.task)
        # A logit tie may fall either way: one image of forty.
        assert row.accuracy == pytest.approx(expected, abs=1 / 40 + 1e-9)


@pytest.mark.parametrize("mode", ["nonlinear", "posthoc", "linear"])
def test_negated_models_score_what_the_table_says(finished_project, mode):
    frame = table(finished_project, "task_negation")
    for row in frame[frame["mode"] == mode].itertuples():
        for dataset, found in ((row.task, row.target_accuracy), ("scenes", row.control_accuracy)):
            expected = measured(finished_project, mode, {row.task: -1}, row.alpha, dataset)
            assert found == pytest.approx(expected, abs=1 / 40 + 1e-9)


def test_single_models_score_what_the_table_says(finished_project):
    frame = table(finished_project, "single_task")
    frame = frame[frame.split == "test"].set_index(["mode", "task"]).accuracy
    for task in TASKS:
        for mode in ("nonlinear", "posthoc", "linear"):
            expected = measured(finished_project, mode, {task: 1}, 1.0, task)
            assert frame[mode, task] == pytest.approx(expected, abs=1 / 40 + 1e-9)
        before = measured(finished_project, "nonlinear", {task: 1}, 0.0, task)
        assert frame["pretrained", task] == pytest.approx(before, abs=1 / 40 + 1e-9)


def test_every_artifact_has_a_record_that_describes_it(finished_project):
    found = [
        path
        for path in finished_project.result("").rglob("*")
        if path.is_file() and "logs" not in path.parts and not path.name.endswith(".lineage.json")
    ]
    assert len(found) > 80
    for path in found:
        record = read_json(record_path(path))
        outputs = {output["path"]: output["sha256"] for output in record["outputs"]}
        assert outputs[str(path.relative_to(finished_project.root))] == sha256(path)
        assert record["command"].startswith("task-arithmetic ")


def test_the_report_tells_the_story_in_chapters_with_captions(finished_project, tmp_path):
    project = finished_project.copy_to(tmp_path / "project")
    done = project.run("--report", "report.html", "all")
    assert done.returncode == 0, done.stderr
    page = (project.root / "report.html").read_text()
    categories = re.search(r"^\s*var categories = (\{.*?\});?$", page, re.MULTILINE)
    assert sorted(json.loads(categories[1])) == [
        "1 What was run", "2 Finding one: addition", "5 Negation", "6 Why it works", "8 Provenance"
    ]  # fmt: skip
    results = json.loads(re.search(r"^\s*var results = (\{.*?\});?$", page, re.MULTILINE)[1])
    assert all(result["caption"] for result in results.values())
    assert "weight disentanglement" in page
    assert "{{ snakemake" not in page
    shown = {(*result["labels"].values(), result["mime_type"]) for result in results.values()}
    assert ("Addition of all tasks", "table", "text/html") in shown
    assert ("Pictures of the datasets", "figure", "image/png") in shown


def test_a_page_says_what_was_run_and_one_where_it_comes_from(finished_project):
    run = finished_project.result("pages/run.html").read_text()
    for words in ("digits", "finetuning.steps", "control_threshold"):
        assert f"<td>{words}</td>" in run
    provenance = finished_project.result("pages/provenance.html").read_text()
    table = sha256(finished_project.result("tables/task_addition.csv"))
    encoder = sha256(finished_project.root / "workflow/assets/tiny/encoder.safetensors")
    for digest in (table, encoder):
        assert digest[:12] in provenance


def test_the_default_tables_take_few_processes_with_torch(new_project):
    done = new_project.run("--dry-run", "--configfile", ROOT / "config.yaml", "--", "all_tables")
    assert done.returncode == 0, done.stderr
    text = (done.stdout + done.stderr).partition("Job stats:")[2]
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", text.partition("\n\n")[0], re.MULTILINE))
    assert {"finetune": "16", "features": "9", "head": "9"}.items() <= jobs.items()
    assert sum(int(jobs.get(rule, 0)) for rule in TORCH_RULES) <= 80


def test_pretraining_from_scratch_is_part_of_the_graph(new_project, tmp_path):
    project = new_project.copy_to(tmp_path / "project")
    project.configure(lambda config: config["models"]["tiny"].update(weights="pretrain"))
    assert "pre-training tiny" in project.planned("all_tables")
    assert "pre-training tiny" not in new_project.planned("all_tables")
