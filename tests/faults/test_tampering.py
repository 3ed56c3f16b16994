"""Tampering with a finished project: the audit finds and names each case, and nothing else.

Only content counts: copies and touched files are as good as the originals.
"""

import json
import os
import shlex
import shutil

import pytest
from projects import Project

from task_arithmetic.artifacts import read_json, write_json
from task_arithmetic.audit import Verdict, audit
from task_arithmetic.lineage import read_record, record_path, write_record
from task_arithmetic.plan import present_plan

CHECKPOINT = "results/embedded/checkpoints/tiny/0/{mode}/{task}.safetensors"
DIGITS = CHECKPOINT.format(mode="linear", task="digits")
SHAPES = CHECKPOINT.format(mode="linear", task="shapes")
VECTOR = "results/embedded/vectors/tiny/0/linear/digits.safetensors"
CURVE = "results/embedded/edits/tiny/0/linear/all/validation.csv"
TABLE = "results/embedded/tables/task_addition.csv"


@pytest.fixture(scope="module")
def plan(finished_project):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished_project.root)
        return present_plan()


@pytest.fixture
def here(project, monkeypatch):
    """Return a copy of the finished project that a test may tamper with, and work in it."""
    monkeypatch.chdir(project.root)
    return project


def flip(path, position=-100):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def found(plan, *targets):
    """Return the verdicts that are not ok, by path."""
    nodes = audit(targets or plan.artifacts, plan)
    return {path: node.verdict for path, node in nodes.items() if node.verdict is not Verdict.OK}


def without_consequences(verdicts):
    """Return the verdicts of the files that were tampered with themselves."""
    return {path: verdict for path, verdict in verdicts.items() if verdict != Verdict.STALE_INPUT}


def test_a_finished_project_is_ok_and_every_file_is_reached(here, plan):
    nodes = audit(plan.tables, plan)
    assert found(plan) == {}
    files = {str(path.relative_to(here.root)) for path in here.result("").rglob("*.safetensors")}
    assert files <= set(nodes)
    assert "workflow/assets/tiny/encoder.safetensors" in nodes


def test_copies_and_touched_files_are_ok(here, plan, tmp_path, monkeypatch):
    for path in here.result("").rglob("*"):
        os.utime(path, (0, 0) if path.suffix == ".safetensors" else None)
    assert found(plan) == {}
    shutil.copytree(here.root, tmp_path / "copied" / "elsewhere")
    monkeypatch.chdir(tmp_path / "copied" / "elsewhere")
    assert found(plan) == {}


def test_a_flipped_byte_in_a_checkpoint_is_found_and_its_vector_is_stale(here, plan):
    flip(here.root / DIGITS)
    verdicts = found(plan)
    assert without_consequences(verdicts) == {DIGITS: Verdict.MODIFIED}
    assert verdicts[VECTOR] is Verdict.STALE_INPUT
    assert verdicts[TABLE] is Verdict.STALE_INPUT
    assert SHAPES not in verdicts


def a_column(project):
    inputs = read_record(project.root / CURVE)["inputs"]
    return next(entry["path"] for entry in inputs if "/columns/" in entry["path"])


def test_a_flipped_byte_in_a_stored_column_is_found(here, plan):
    column = a_column(here)
    flip(here.root / column)
    verdicts = found(plan, TABLE)
    assert without_consequences(verdicts) == {column: Verdict.MODIFIED}
    assert verdicts[CURVE] is Verdict.STALE_INPUT


def test_a_stored_column_without_a_record_is_found(here, plan):
    column = a_column(here)
    record_path(here.root / column).unlink()
    assert found(plan, TABLE) == {column: Verdict.UNRECORDED}


def test_a_result_that_the_configuration_no_longer_makes_is_found(here):
    here.configure(lambda config: config.update(tasks=["digits", "colors"]))
    assert found(present_plan(), SHAPES) == {SHAPES: Verdict.STALE_CONFIG}


@pytest.mark.parametrize("path", [TABLE, CURVE])
def test_a_changed_csv_cell_is_found(here, plan, path):
    lines = (here.root / path).read_text().splitlines()
    cells = lines[1].split(",")
    cells[-1] = "0.999"
    (here.root / path).write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    assert without_consequences(found(plan)) == {path: Verdict.MODIFIED}


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(seconds=1.0),
        lambda record: record["git"].update(dirty=False) if record["git"] else record.pop("git"),
        lambda record: record["settings"]["hyperparameters"].update(learning_rate=1.0),
        lambda record: record["outputs"].pop(),
    ],
)
def test_an_edited_record_is_found(here, plan, change):
    record = read_json(record_path(here.root / DIGITS))
    change(record)
    write_json(record_path(here.root / DIGITS), record)
    assert found(plan) == {DIGITS: Verdict.MODIFIED}


def test_a_record_that_is_no_json_is_found(here, plan):
    record_path(here.root / DIGITS).write_text("{")
    assert found(plan) == {DIGITS: Verdict.MODIFIED}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (lambda record: record["settings"].update(model="other"), Verdict.STALE_CONFIG),
        (lambda record: record["code"].update(digest="0" * 64), Verdict.STALE_CODE),
        (lambda record: record["outputs"][0].update(sha256="0" * 64), Verdict.MODIFIED),
        (lambda record: record["inputs"][0].update(sha256="0" * 64), Verdict.STALE_INPUT),
        (lambda record: record["inputs"].pop(), Verdict.STALE_CONFIG),
    ],
)
def test_a_record_that_was_edited_and_sealed_again_contradicts_its_neighbours(
    here, plan, change, verdict
):
    record = read_record(DIGITS)
    seal = record.pop("seal")
    change(record)
    write_record(DIGITS, record)
    assert read_record(DIGITS)["seal"] != seal
    assert found(plan, DIGITS) == {DIGITS: verdict}


def test_two_swapped_checkpoints_are_both_found(here, plan):
    swap(here.root / DIGITS, here.root / SHAPES)
    verdicts = without_consequences(found(plan))
    assert verdicts == {DIGITS: Verdict.MODIFIED, SHAPES: Verdict.MODIFIED}


def test_two_checkpoints_swapped_with_their_records_are_both_found(here, plan):
    swap(here.root / DIGITS, here.root / SHAPES)
    swap(record_path(here.root / DIGITS), record_path(here.root / SHAPES))
    verdicts = without_consequences(found(plan))
    assert verdicts == {DIGITS: Verdict.MODIFIED, SHAPES: Verdict.MODIFIED}


def swap(one, other):
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_a_deleted_link_of_the_chain_is_found(here, plan):
    (here.root / VECTOR).unlink()
    assert found(plan, TABLE) == {VECTOR: Verdict.MISSING}
    record_path(here.root / VECTOR).unlink()
    verdicts = found(plan, TABLE)
    assert verdicts == {VECTOR: Verdict.MISSING}


def test_a_deleted_record_and_a_link_that_leads_nowhere_are_found(here, plan):
    record_path(here.root / VECTOR).unlink()
    (here.root / DIGITS).unlink()
    (here.root / DIGITS).symlink_to("/nowhere/digits.safetensors")
    assert found(plan, TABLE) == {VECTOR: Verdict.UNRECORDED, DIGITS: Verdict.MISSING}


def test_a_deleted_source_is_found(here):
    source = "workflow/assets/tiny/encoder.safetensors"
    (here.root / source).unlink()
    assert found(present_plan(), TABLE) == {source: Verdict.MISSING}


def test_a_task_run_again_by_hand_with_another_seed_is_found(here, plan):
    command = shlex.split(read_record(DIGITS)["command"])
    position = command.index("--settings") + 1
    settings = json.loads(command[position])
    settings["hyperparameters"]["seed"] = 1
    command[position] = json.dumps(settings)
    done = here.run(*command[1:], command=command[0])
    assert done.returncode == 0, done.stderr
    nodes = audit(plan.tables, plan)
    assert nodes[DIGITS].verdict is Verdict.STALE_CONFIG
    (finding,) = nodes[DIGITS].findings
    assert (finding.reason, finding.expected, finding.found) == (
        "hyperparameters.seed changed", 0, 1,
    )  # fmt: skip
    assert nodes[VECTOR].stale
    assert nodes[TABLE].stale
    assert nodes[SHAPES].verdict is Verdict.OK


def test_the_command_tells_all_and_its_exit_code_says_whether_all_is_ok(here: Project):
    clean = here.run("audit", command="task-arithmetic")
    assert clean.returncode == 0, clean.stdout + clean.stderr
    assert clean.stdout.splitlines()[-1].endswith(" ok")
    flip(here.root / DIGITS)
    done = here.run("audit", "--why", TABLE, command="task-arithmetic")
    assert done.returncode == 1
    assert f"{DIGITS}  modified" in done.stdout
    recorded = read_record(DIGITS)["outputs"][0]["sha256"]
    assert f"expected {recorded}" in done.stdout
    assert "1 modified" in done.stdout.splitlines()[-1]
    done = here.run("audit", "--json", command="task-arithmetic")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], report["summary"]["modified"]) == (1, False, 1)
    assert TABLE in report["targets"]


def test_what_was_never_asked_for_is_not_missing(project):
    for path in project.result("tables").glob("similarity.*"):
        path.unlink()
    done = project.run("audit", "--quiet", command="task-arithmetic")
    assert done.returncode == 0, done.stdout
    named = project.run("audit", "--quiet", project.result("tables"), command="task-arithmetic")
    assert named.returncode == 1
    assert "similarity.csv  missing" in named.stdout
