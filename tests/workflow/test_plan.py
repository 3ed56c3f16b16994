"""The plan: what Snakemake says that it would make."""

import pytest

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.lineage import code_digest
from task_arithmetic.plan import present_plan

CHECKPOINT = "results/embedded/checkpoints/tiny/0/linear/digits.safetensors"


@pytest.fixture
def here(new_project, tmp_path, monkeypatch):
    project = new_project.copy_to(tmp_path / "project")
    monkeypatch.chdir(project.root)
    return project


def test_an_artifact_is_planned_with_settings_code_inputs_and_siblings(here):
    plan = present_plan()
    planned = plan.artifacts[CHECKPOINT]
    assert planned.settings["hyperparameters"]["steps"] == 4
    assert planned.code == code_digest("finetune")
    assert planned.inputs == {
        "results/embedded/datasets/digits/train.parquet",
        "results/embedded/encoders/tiny/encoder.safetensors",
        "results/embedded/heads/tiny/digits.safetensors",
    }
    assert planned.siblings == {CHECKPOINT, CHECKPOINT.replace(".safetensors", ".csv")}
    assert plan.experiment == "embedded"
    assert plan.stores == {"results/embedded/columns"}
    assert not [path for path in plan.artifacts if path.endswith(".lineage.json")]


def test_a_workflow_that_cannot_be_planned_says_why(here, tmp_path, monkeypatch):
    here.configure(lambda config: config.update(taks=["digits"]))
    with pytest.raises(PipelineError, match="unknown key 'taks'"):
        present_plan()
    with pytest.raises(PipelineError, match=r"the workflow cannot be planned: .*nonsense"):
        here.configure(lambda config: config.pop("taks"))
        present_plan(target="nonsense")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match="Snakefile: expected the workflow in"):
        present_plan()
