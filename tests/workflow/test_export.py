"""The exported crate, as the rocrate library and an independent validator read it."""

import json
import zipfile
from pathlib import Path

import pytest
import requests
import rocrate
from rocrate.rocrate import ROCrate
from rocrate_validator import services
from rocrate_validator.models import Severity
from rocrate_validator.utils.http import HttpRequester

from task_arithmetic.artifacts import sha256
from task_arithmetic.lineage import record_path

TABLE = "results/embedded/tables/task_addition.csv"
CHECKPOINT = "results/embedded/checkpoints/tiny/0/linear/digits.safetensors"
CONTEXT = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"


@pytest.fixture(scope="module")
def exported(finished_project, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "crate.zip"
    done = finished_project.run("export", path, command="task-arithmetic")
    assert done.returncode == 0, done.stderr
    return path


def test_the_library_reads_the_crate_and_finds_the_chain(exported, finished_project):
    crate = ROCrate(exported)
    table = crate.get(TABLE)
    assert table["sha256"] == sha256(finished_project.root / TABLE)
    runs = [entity for entity in crate.get_entities() if entity.type == "CreateAction"]
    (made,) = [run for run in runs if table in run["result"]]
    assert made["description"].startswith("task-arithmetic table task_addition ")
    assert any(file["name"].endswith("selection.csv") for file in made["object"])
    assert set(crate.root_dataset["mentions"]) == set(runs)
    assert len({run["startTime"] + run["description"] for run in runs}) == len(runs)


def test_the_crate_holds_what_people_read_and_every_record(exported, finished_project):
    with zipfile.ZipFile(exported) as archive:
        names = set(archive.namelist())
        assert archive.read(TABLE) == (finished_project.root / TABLE).read_bytes()
    assert {"config.yaml", "ro-crate-metadata.json"} <= names
    assert "results/embedded/figures/addition_curves.png" in names
    for artifact in (TABLE, CHECKPOINT, "workflow/assets/tiny/encoder.safetensors"):
        assert str(record_path(artifact)) in names
    assert not [name for name in names if name.endswith((".safetensors", ".parquet"))]


def test_checkpoints_are_named_by_their_hash(exported, finished_project):
    crate = ROCrate(exported)
    content = sha256(finished_project.root / CHECKPOINT)
    (checkpoint,) = [file for file in crate.data_entities if file.get("sha256") == content]
    assert checkpoint.id.startswith("ni:///sha-256;")
    assert checkpoint["name"] == CHECKPOINT


def test_an_independent_validator_accepts_the_process_run_profile(exported, monkeypatch):
    def answer(requester, url, **options):
        # Offline: the library ships the context that the validator would fetch.
        assert url.startswith("https://w3id.org/ro/crate/")
        response = requests.Response()
        response.status_code, response._content = 200, CONTEXT.read_bytes()
        response.headers["Content-Type"] = "application/ld+json"
        return response

    monkeypatch.setattr(HttpRequester, "get", answer, raising=False)
    result = services.validate(
        services.ValidationSettings(
            rocrate_uri=str(exported),
            profile_identifier="process-run-crate-0.5",
            requirement_severity=Severity.REQUIRED,
            offline=True,
            skip_availability_check=True,
        )
    )
    assert [issue.message for issue in result.get_issues()] == []
    with zipfile.ZipFile(exported) as archive:
        metadata = json.loads(archive.read("ro-crate-metadata.json"))
    root = next(entity for entity in metadata["@graph"] if entity["@id"] == "./")
    assert root["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}


def test_results_that_are_not_ok_are_not_exported(project, tmp_path):
    (project.root / TABLE).write_text("model\n")
    done = project.run("export", tmp_path / "crate.zip", command="task-arithmetic")
    assert done.returncode == 1
    assert "expected results that are all ok" in done.stderr
    assert "'modified': 1" in done.stderr
    assert not (tmp_path / "crate.zip").exists()
