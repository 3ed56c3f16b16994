"""The trace of one cell of a table, against the files it names."""

import json

import pandas as pd
import pytest

from task_arithmetic.artifacts import PipelineError, canonical_json, read_json, sha256
from task_arithmetic.audit import audit
from task_arithmetic.lineage import record_path
from task_arithmetic.plan import present_plan
from task_arithmetic.trace import find_row, trace

TABLES = "results/embedded/tables"


@pytest.fixture(scope="module", autouse=True)
def plan(finished_project):
    """Work in the finished project, and return its plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished_project.root)
        yield present_plan()


def traced(plan, table, **row):
    path = f"{TABLES}/{table}.csv"
    chain = trace(path, find_row(path, row), audit([path], plan))
    return json.loads(canonical_json(chain))


def test_an_addition_leads_to_its_coefficient_checkpoints_data_and_code(plan, finished_project):
    chain = traced(plan, "task_addition", task="digits", mode="linear")
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
        ("task_negation", {"task": "shapes", "mode": "posthoc"}, "negation-shapes", {"nonlinear"}),
        ("single_task", {"task": "digits", "mode": "linear", "split": "test"}, "single-digits",
         {"linear"}),
        ("single_task", {"task": "digits", "mode": "pretrained", "split": "test"}, "single-digits",
         {"nonlinear"}),
    ],
)  # fmt: skip
def test_every_table_and_mode_can_be_traced(plan, table, row, edit, modes):
    chain = traced(plan, table, **row)
    assert chain["edit"]["name"] == edit
    assert {part["path"].split("/")[-2] for part in chain["checkpoints"]} == modes
    assert bool(chain["selection"]) == (table != "single_task")
    assert chain["measured"]


def test_a_row_that_is_about_no_edit_leads_to_the_rows_like_itself(plan):
    row = {"mode": "linear", "layer": "stem", "first": "digits", "second": "shapes"}
    chain = traced(plan, "similarity", **row)
    assert chain["edit"] is None
    (measured,) = chain["measured"]
    assert measured["rows"] == [chain["row"]]
    assert measured["settings"]["tasks"] == ["digits", "shapes"]
    assert len(chain["checkpoints"]) == 4
    assert list(chain["audit"]) == ["ok"]


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
        ("task_addition.csv", {"task": "digits"}, "found 3; they differ in mode"),
        ("task_addition.csv", {"task": "cats", "mode": "linear"}, "expected one row"),
        ("task_addition.csv", {"tusk": "digits"}, r"found \['tusk'\]"),
        ("task_addition.md", {"task": "digits"}, "expected the CSV file"),
        ("../summary/mean_curves.csv", {"mode": "linear"}, "expected the CSV file"),
    ],
)
def test_a_row_that_is_not_one_row_is_explained(table, row, message):
    with pytest.raises(PipelineError, match=message):
        find_row(f"{TABLES}/{table}", row)


def test_a_row_that_is_no_list_of_values_is_a_usage_error(finished_project):
    done = finished_project.run(
        "trace", f"{TABLES}/task_addition.csv", "--row", "digits", command="task-arithmetic"
    )
    assert done.returncode == 2
    assert "expected column=value" in done.stderr
