"""The cache between workflows: what may share an entry, and what a second clone computes."""

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
from projects import TASKS

from task_arithmetic.artifacts import read_json
from task_arithmetic.lineage import record_path

PROGRAM = Path(__file__).with_name("cache_entries.py")


def report(project):
    done = project.run(PROGRAM, command=sys.executable, SNAKEMAKE_OUTPUT_CACHE=str(project.root))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def entries(project):
    """Return the entry of every cached job, by rule and wildcards."""
    return {
        (job["rule"], *sorted(job["wildcards"].items())): job["entry"]
        for job in report(project)["entries"]
    }


@pytest.fixture(scope="module")
def unchanged(new_project):
    """Return the entries of the small project as it is."""
    return entries(new_project)


@pytest.fixture(scope="module")
def several(new_project, tmp_path_factory):
    """Return the report of a project with two of everything that a wildcard can be."""

    def change(config):
        config["models"]["other"] = copy.deepcopy(config["models"]["tiny"])
        config["models"]["third"] = copy.deepcopy(config["models"]["tiny"]) | {
            "weights": "pretrain"
        }
        config["models"]["fourth"] = copy.deepcopy(config["models"]["third"])
        config["seeds"] = [0, 1]
        # Trains variants, which are cached as well.
        config["negation_baselines"] = {"coefficients": [0.5, 1.0]}
        # So are the sub-populations; planning does not ask for the same classes.
        config["analogies"] = {
            "styles": [["letters_printed", "letters"], ["photos", "signs"]],
            "modes": ["nonlinear", "linear"],
            "samples": [],
            "finetuning": {},
            "sample_finetuning": {},
            "coefficients": [1.0],
        }

    project = new_project.copy_to(tmp_path_factory.mktemp("several") / "project")
    project.configure(change)
    return report(project)


def test_no_two_jobs_share_an_entry_and_every_cached_rule_is_among_them(several):
    found = several
    assert {"dataset", "encoder", "finetune", "head", "pretrain"} <= set(found["rules"])
    assert {job["rule"] for job in found["entries"]} == set(found["rules"])
    for rule in found["rules"]:
        jobs = [job for job in found["entries"] if job["rule"] == rule]
        for name in jobs[0]["wildcards"]:
            values = {job["wildcards"][name] for job in jobs}
            assert len(values) > 1, f"{rule}: the test never varies {name}"
    jobs_of = {}
    for job in found["entries"]:
        jobs_of.setdefault(job["entry"], []).append((job["rule"], job["wildcards"]))
    assert [jobs for jobs in jobs_of.values() if len(jobs) > 1] == []


def test_all_that_a_cached_command_is_told_is_in_its_entry(several):
    for rule, found in several["rules"].items():
        # Outputs, logs, threads and resources decide no content; inputs and params are part of it.
        told = set(found["fields"])
        assert told <= {"input", "output", "params", "log", "threads", "resources"}, rule
        assert {"code", "settings"} <= set(found["params"]), rule
        records = [name for name in found["outputs"] if name.endswith("record")]
        assert len(records) * 2 == len(found["outputs"]), f"{rule}: a record per artifact"


def learning_rate(project):
    project.configure(
        lambda config: config["datasets"]["digits"].update(finetuning={"learning_rate": 1.0e-4})
    )


def images(project):
    project.configure(lambda config: config["datasets"]["digits"]["source"].update(seed=1))


def templates(project):
    project.configure(lambda config: config["datasets"]["digits"].update(templates=["a {}"]))


def loss(project):
    path = project.root / "workflow" / "task_arithmetic" / "finetune.py"
    text = path.read_text()
    assert "F.cross_entropy(" in text
    path.write_text(text.replace("F.cross_entropy(", "0.5 * F.cross_entropy("))


def weights(project):
    path = project.root / "workflow" / "assets" / "tiny" / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (learning_rate, {("finetune", "digits")}),
        (templates, {("head", "digits"), ("finetune", "digits")}),
        (images, {("dataset", "digits"), ("head", "digits"), ("finetune", "digits")}),
        (loss, {("finetune", task) for task in TASKS}),
        (weights, {
            ("encoder", None), ("head", "scenes"),
            *((rule, task) for rule in ("head", "finetune") for task in TASKS),
        }),
    ],
)  # fmt: skip
def test_another_config_code_or_content_is_another_entry(
    new_project, unchanged, tmp_path, change, expected
):
    project = new_project.copy_to(tmp_path / "project")
    change(project)
    after = entries(project)
    assert unchanged.keys() == after.keys()
    changed = {key for key in after if unchanged[key] != after[key]}
    found = {
        (rule, dict(named).get("task", dict(named).get("dataset"))) for rule, *named in changed
    }
    assert found == expected


def test_a_second_clone_computes_no_dataset_head_or_training(new_project, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    first, second = (new_project.copy_to(tmp_path / name) for name in ("first", "second"))
    # Another experiment's name and folder: what is shared must not depend on them.
    second.configure(lambda config: config.update(experiment="other"))
    for project in (first, second):
        done = project.run(
            "--cores", "2", "--cache", "--until", "finetune", "--", "all_tables",
            SNAKEMAKE_OUTPUT_CACHE=str(cache),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    made, restored = first.root / "results" / "embedded", second.root / "results" / "other"
    # Every artifact is a link to the first clone's, with the record of the run that made it there.
    records = [path.relative_to(made) for path in sorted(made.rglob("*.lineage.json"))]
    assert len(records) == 2 * 3 + 1 + 2 + 4 * 2
    for name in records:
        assert (restored / name).is_symlink()
        assert (restored / name).read_bytes() == (made / name).read_bytes()
    assert sorted(path.relative_to(restored) for path in restored.rglob("*.json")) == records
    checkpoint = Path("checkpoints", "tiny", "0", "linear", "digits.safetensors")
    assert (restored / checkpoint).is_symlink()
    # The record is that of the run that made the artifact.
    record = read_json(record_path(restored / checkpoint))
    assert record == read_json(record_path(made / checkpoint))
    assert record["artifact"] == str(Path("results", "embedded") / checkpoint)
    for project, folder in ((first, made), (second, restored)):
        audited = project.run("audit", folder / "checkpoints", command="task-arithmetic")
        assert audited.returncode == 0, audited.stdout

    (restored / checkpoint).unlink()
    (restored / checkpoint).symlink_to(cache / "gone")
    audited = second.run("audit", "--quiet", restored / "checkpoints", command="task-arithmetic")
    assert audited.returncode == 1
    assert f"results/other/{checkpoint}  missing" in audited.stdout
    shutil.rmtree(cache)
