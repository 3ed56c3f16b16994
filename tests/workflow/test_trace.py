"""The trace of one cell of a table, against the files it names."""

import json

import pandas as pd
import pytest

from task_arithmetic.artifacts import read_json, sha256
from task_arithmetic.lineage import record_path

TABLES = "results/embedded/tables"


def traced(project, table, row):
    done = project.run(
        "trace", f"{TABLES}/{table}.csv", "--row", row, "--json", command="task-arithmetic"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_addition_leads_to_its_coefficient_checkpoints_data_and_code(finished_project):
    chain = traced(finished_project, "task_addition", "task=digits,mode=linear")
    root = finished_project.root
    assert chain["edit"] == {"name": "addition", "weights": {"digits": 1, "shapes": 1}}
    (selection,) = chain["selection"]
    assert selection["rows"][0]["alpha"] == chain["row"]["alpha"]
    (validation,) = chain["validation"]
    curve = pd.DataFrame(validation["rows"])
    assert sorted(curve.alpha.unique()) == finished_project.config["coefficients"]
    assert set(curve.dataset) == {"digits", "shapes"}
    (measured,) = chain["measured"]
    cell = [
        row["accuracy"]
        for row in measured["rows"]
        if (row["dataset"], row["alpha"]) == ("digits", chain["row"]["alpha"])
    ]
    assert cell == [chain["row"]["accuracy"]]
    assert [part["path"].split("checkpoints/")[1] for part in chain["checkpoints"]] == [
        "tiny/0/linear/digits.safetensors",
        "tiny/0/linear/shapes.safetensors",
    ]
    for checkpoint in chain["checkpoints"]:
        assert checkpoint["sha256"] == sha256(root / checkpoint["path"])
        record = read_json(record_path(root / checkpoint["path"]))
        assert checkpoint["run"]["command"] == record["command"]
        assert checkpoint["last_step"]["step"] == 4
        (vector,) = checkpoint["vectors"]
        assert vector["path"] == checkpoint["path"].replace("checkpoints", "vectors")
    data = {file["path"]: file["sha256"] for file in chain["datasets"]}
    for split in ("train", "validation", "test"):
        path = f"results/embedded/datasets/digits/{split}.parquet"
        assert data[path] == sha256(root / path)
    assert {"dataset", "finetune", "select", "table", "tangent-curve"} <= {
        code["step"] for code in chain["code"]
    }
    assert list(chain["audit"]) == ["ok"]


@pytest.mark.parametrize(
    ("table", "row", "edit", "modes"),
    [
        ("task_negation", "task=shapes,mode=posthoc", "negation-shapes", {"nonlinear"}),
        ("single_task", "task=digits,mode=nonlinear,split=test", "single-digits", {"nonlinear"}),
        ("single_task", "task=digits,mode=pretrained,split=test", "single-digits", {"nonlinear"}),
    ],
)
def test_every_table_and_mode_can_be_traced(finished_project, table, row, edit, modes):
    chain = traced(finished_project, table, row)
    assert chain["edit"]["name"] == edit
    assert {part["path"].split("/")[-2] for part in chain["checkpoints"]} == modes
    assert bool(chain["selection"]) == (table != "single_task")
    assert chain["measured"]


def test_the_chain_is_shown_as_a_tree(finished_project):
    done = finished_project.run(
        "trace", f"{TABLES}/task_addition.csv", "--row", "task=digits,mode=posthoc",
        command="task-arithmetic",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in (
        "α selected on",
        "rule: greatest mean",
        "learning_rate=0.0008",
        "commit",
        "audit",
    ):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        ("task_addition.csv", "task=digits", "found 3; they differ in mode"),
        ("task_addition.csv", "task=cats,mode=linear", "expected one row"),
        ("task_addition.csv", "tusk=digits", "found ['tusk']"),
        ("task_addition.md", "task=digits", "expected the CSV file"),
    ],
)
def test_a_row_that_is_not_one_row_is_explained(finished_project, table, row, message):
    done = finished_project.run(
        "trace", f"{TABLES}/{table}", "--row", row, command="task-arithmetic"
    )
    assert done.returncode == 1
    assert message in done.stderr
