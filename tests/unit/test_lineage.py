"""The digest of code and the record beside artifacts."""

import shutil

import pytest

from task_arithmetic import lineage
from task_arithmetic.artifacts import PipelineError, read_json, sha256
from task_arithmetic.lineage import record_path, recorded_step


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
        step.facts["device"] = "cpu"


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
    assert record["facts"] == {"device": "cpu"}
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
