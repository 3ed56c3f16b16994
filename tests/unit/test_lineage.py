"""The digest of code and the record beside artifacts."""

import shutil

import pytest

from task_arithmetic import lineage
from task_arithmetic.artifacts import PipelineError, read_json, sha256, write_json
from task_arithmetic.lineage import read_record, record_path, recorded_step


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a copy of the package whose sources a test may change."""
    copy = shutil.copytree(
        lineage.PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(lineage, "PACKAGE", copy)
    forget()
    yield copy
    forget()


def forget():
    lineage.source_files.cache_clear()
    lineage.code_digest.cache_clear()


def digest_after(path, change):
    path.write_text(change(path.read_text()))
    forget()
    return lineage.code_digest("finetune")


def test_the_closure_holds_what_a_module_imports_and_no_more():
    names = {path.stem for path in lineage.source_files("finetune")}
    assert {"finetune", "tangent", "encoders", "artifacts"} <= names
    assert not {"cli", "tables", "curves", "embedded"} & names


def test_comments_docstrings_and_layout_keep_the_digest(package):
    before, path = lineage.code_digest("finetune"), package / "finetune.py"
    assert digest_after(path, lambda text: f"# a remark\n{text}\n\n# another\n") == before
    assert digest_after(path, lambda text: text.replace('"""Fine-tuning', '"""Tuning')) == before


def test_changed_code_here_or_in_an_imported_module_changes_the_digest(package):
    digests = {
        lineage.code_digest("finetune"),
        digest_after(package / "finetune.py", lambda text: text.replace("0.5 *", "0.25 *")),
        digest_after(package / "encoders.py", lambda text: text.replace("100 *", "50 *")),
    }
    assert len(digests) == 3
    before = lineage.code_digest("finetune")
    assert digest_after(package / "tables.py", lambda text: f"{text}\nx = 1\n") == before


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="no module 'nonsense'"):
        lineage.code_digest("nonsense")


def run_step(inputs, output, content="made"):
    with recorded_step("vector", {"task": "digits"}, ("vectors",), inputs, [output]) as step:
        output.write_text(content)
        step.facts["examples"] = 3


def test_a_record_says_what_made_the_artifact(tmp_path):
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("raw")
    run_step([source], output)
    record = read_json(record_path(output))
    assert record["settings"] == {"task": "digits"}
    assert record["inputs"] == [{"path": str(source), "size": 3, "sha256": sha256(source)}]
    assert record["outputs"][0]["sha256"] == sha256(output)
    assert record["code"]["digest"] == lineage.code_digest("vectors")
    assert "vectors.py" in record["code"]["files"]
    assert record["packages"]["torch"]
    assert record["facts"] == {"examples": 3}
    assert record["seconds"] >= 0
    assert record["peak_memory_bytes"] > 0


def test_a_changed_input_stops_the_step_that_would_use_it(tmp_path):
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    run_step([], first)
    first.write_text("nade")
    with pytest.raises(PipelineError, match=r"first\.txt: damaged or modified since it was made"):
        run_step([first], second)
    assert not second.exists()


def test_a_missing_input_and_a_missing_output_are_named(tmp_path):
    with pytest.raises(PipelineError, match=r"absent\.txt: input file not found"):
        run_step([tmp_path / "absent.txt"], tmp_path / "out.txt")
    with (
        pytest.raises(PipelineError, match=r"ended without writing .*never\.txt"),
        recorded_step("x", {}, ("vectors",), [], [tmp_path / "never.txt"]),
    ):
        pass


def test_a_failed_step_leaves_no_old_record(tmp_path):
    output = tmp_path / "out.txt"
    run_step([], output)
    with pytest.raises(RuntimeError), recorded_step("x", {}, ("vectors",), [], [output]):
        raise RuntimeError
    assert not record_path(output).exists()


def test_paths_in_a_record_are_relative_to_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("raw")
    (tmp_path / "made").mkdir()
    run_step([tmp_path / "in.txt"], tmp_path / "made" / "out.txt")
    record = read_record("made/out.txt")
    assert record["artifact"] == "made/out.txt"
    assert [file["path"] for file in record["inputs"] + record["outputs"]] == [
        "in.txt",
        "made/out.txt",
    ]


def test_a_record_names_every_seed_and_where_it_ran(tmp_path):
    settings = {"seed": 3, "task": "digits", "validation": {"seed": 7, "fraction": 0.1}}
    output = tmp_path / "out.txt"
    with recorded_step("dataset", settings, ("artifacts",), [], [output]):
        output.write_text("made")
    record = read_record(output)
    assert record["seeds"] == {"seed": 3, "validation.seed": 7}
    assert record["device"] == "cpu" or record["device"].startswith("cuda (")
    assert record["threads"] >= 1
    assert record["code"]["modules"] == ["artifacts"]
    assert record["lock"] == sha256(lineage.PACKAGE.parents[1] / "envs" / "requirements.lock")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(seconds=1e6), "edited since it was written"),
        (lambda record: record["settings"].update(task="shapes"), "edited since it was written"),
        (lambda record: record.pop("git"), "'git' is a required property"),
        (lambda record: record.update(schema_version=1), "2 was expected"),
        (lambda record: record["outputs"][0].update(sha256="abc"), "'abc' does not match"),
    ],
)
def test_an_edited_record_is_refused(tmp_path, change, message):
    output = tmp_path / "out.txt"
    run_step([], output)
    record = read_json(record_path(output))
    change(record)
    write_json(record_path(output), record)
    with pytest.raises(PipelineError, match=message):
        read_record(output)


def test_a_reused_file_is_checked_and_recorded_like_an_input(tmp_path):
    reused, output = tmp_path / "reused.txt", tmp_path / "out.txt"
    run_step([], reused)
    with recorded_step("features", {}, ("artifacts",), [], [output]) as step:
        step.reuses([reused])
        output.write_text("made")
    assert [file["path"] for file in read_record(output)["inputs"]] == [str(reused)]
    reused.write_text("changed")
    with (
        pytest.raises(PipelineError, match="damaged or modified"),
        recorded_step("features", {}, ("artifacts",), [], [output]) as step,
    ):
        step.reuses([reused])


SHIPPED = sorted((lineage.PACKAGE.parent / "assets" / "tiny").glob("*.safetensors"))


@pytest.mark.parametrize("shipped", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_what_is_shipped_has_a_record_that_describes_it(shipped):
    record = read_record(shipped)
    assert record["artifact"] == f"workflow/assets/tiny/{shipped.name}"
    assert record["outputs"][0]["sha256"] == sha256(shipped)
    assert not record["git"]["dirty"]
