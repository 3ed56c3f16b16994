"""A mistake in the configuration stops Snakemake at once with one line and exit code 1."""

import pytest
import yaml


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["finetuning"].update(learning_rate="1e-5"),
         "config.yaml: finetuning.learning_rate: expected a number, found the text '1e-5'"),
        (lambda c: c.update(taks=["digits"]), "config.yaml: unknown key 'taks'; did you mean"),
        (lambda c: c["tasks"].append("digits"), "config.yaml: tasks: expected each entry once"),
        (lambda c: c["coefficients"].remove(0.0), "config.yaml: coefficients: expected 0"),
    ],
)  # fmt: skip
def test_a_mistake_starts_nothing(new_project, tmp_path, change, message):
    project = new_project.copy_to(tmp_path / "project")
    project.configure(change)
    done = project.run("--cores", "1", "all_tables")
    lines = [line for line in done.stderr.splitlines() if "profile" not in line]
    assert done.returncode == 1
    assert len(lines) == 1
    assert lines[0].startswith(message)
    assert not (project.root / "results").exists()


def test_a_task_given_twice_in_the_file_is_named_with_its_line(new_project, tmp_path):
    project = new_project.copy_to(tmp_path / "project")
    with (project.root / "config.yaml").open("a") as file:
        file.write("control: scenes\n")
    done = project.run("--cores", "1", "all_tables")
    assert done.returncode == 1
    assert "expected 'control' only once" in done.stderr


def test_another_configuration_file_replaces_the_default(new_project, tmp_path):
    project = new_project.copy_to(tmp_path / "project")
    other = project.config | {"experiment": "other", "tasks": ["letters", "counts"]}
    (project.root / "other.yaml").write_text(yaml.safe_dump(other))
    done = project.run(
        "--dry-run", "--quiet", "host", "--configfile", "other.yaml", "--", "all_tables"
    )
    assert done.returncode == 0, done.stderr
    planned = done.stdout + done.stderr
    assert "results/other/" in planned
    assert "dataset letters" in planned
    assert "dataset digits" not in planned


def test_a_value_on_the_command_line_overrides_the_file(new_project):
    done = new_project.run(
        "--dry-run",
        "--printshellcmds",
        "--config",
        "control_threshold=0.9",
        "experiment=other",
        "--",
        "all_tables",
    )
    assert done.returncode == 0, done.stderr
    planned = done.stdout + done.stderr
    assert '"control_threshold":0.9' in planned
    assert "results/other/" in planned
