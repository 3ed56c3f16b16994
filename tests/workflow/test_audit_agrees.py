"""What the audit calls stale is what Snakemake would run again, over a set of changes."""

import json

import pytest
from projects import TASKS

VECTOR = "vectors/tiny/0/nonlinear/digits.safetensors"


def configured(change):
    return lambda project: project.configure(change)


def rewritten(module, old, new):
    def change(project):
        path = project.root / "workflow" / "task_arithmetic" / f"{module}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def replaced(name):
    def change(project):
        content = bytearray(project.result(name).read_bytes())
        content[-100] ^= 1
        project.result(name).write_bytes(content)

    return change


def deleted(*names):
    return lambda project: [project.result(name).unlink() for name in names]


def several(*changes):
    return lambda project: [change(project) for change in changes]


def slower(config):
    config["datasets"]["digits"]["finetuning"] = {"learning_rate": 1.0e-4}


CHANGES = {
    "nothing": lambda project: None,
    "learning rate of a task": configured(slower),
    "prompts of a task": configured(
        lambda config: config["datasets"]["shapes"].update(templates=["a {}"])
    ),
    "coefficients": configured(lambda config: config.update(coefficients=[0.0, 1.0])),
    "a task more": configured(lambda config: config["tasks"].append("colors")),
    "a task replaced": configured(lambda config: config.update(tasks=["digits", "colors"])),
    "a mode less": configured(lambda config: config["modes"].remove("posthoc")),
    "tasks in another order": configured(lambda config: config["tasks"].reverse()),
    "a comment": rewritten("finetune", "\nimport ", "\n# a remark\nimport "),
    "the loss": rewritten("finetune", "F.cross_entropy(", "0.5 * F.cross_entropy("),
    "the selection rule": rewritten("coefficients", "idxmax()", "idxmin()"),
    "content of a vector": replaced(VECTOR),
    "content of a dataset": replaced("datasets/scenes/test.parquet"),
    "a vector deleted": deleted(VECTOR),
    "a table deleted": deleted("tables/task_addition.md", "tables/single_task.csv"),
    "a vector deleted that a change needs": several(
        deleted("vectors/tiny/0/nonlinear/shapes.safetensors"), configured(slower)
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_audit_calls_stale_what_snakemake_reruns(project, name):
    CHANGES[name](project)
    planned = set(project.planned("all"))
    done = project.run(
        "audit", "--json",
        *(project.result(part) for part in ("tables", "figures", "summary", "pages")),
        command="task-arithmetic",
    )  # fmt: skip
    report = json.loads(done.stdout)
    files = [file for file in report["files"] if file["job"]]
    missing = {file["job"] for file in files if file["verdict"] == "missing"}
    stale = {file["job"] for file in files if file["stale"]}
    assert stale - missing == planned - missing
    # A change is noticed by both, or by none of them.
    harmless = {"nothing", "a comment"}
    assert bool(planned) == (name not in {*harmless, "a vector deleted"})
    assert report["ok"] == (name in harmless)


def test_the_words_of_a_verdict_say_what_changed(project):
    project.configure(slower)
    rewritten("coefficients", "idxmax()", "idxmin()")(project)
    done = project.run("audit", "--json", command="task-arithmetic")
    files = {file["path"]: file for file in json.loads(done.stdout)["files"]}
    for mode in ("nonlinear", "linear"):
        checkpoint = files[f"results/embedded/checkpoints/tiny/0/{mode}/{TASKS[0]}.safetensors"]
        (finding,) = checkpoint["findings"]
        assert finding == {
            "verdict": "stale (config)",
            "reason": "hyperparameters.learning_rate changed",
            "expected": 1.0e-4,
            "found": 8.0e-4,
        }
        other = files[f"results/embedded/checkpoints/tiny/0/{mode}/{TASKS[1]}.safetensors"]
        assert other["verdict"] == "ok"
    selection = files["results/embedded/edits/tiny/0/linear/all/selection.csv"]
    assert {finding["verdict"] for finding in selection["findings"]} == {
        "stale (code)",
        "stale (config)",
    }
