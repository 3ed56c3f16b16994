"""The analyses on a finished project: what they run, and what comes out."""

import json

import pandas as pd
import pytest
from projects import TASKS

from task_arithmetic.artifacts import canonical_json, sha256
from task_arithmetic.audit import audit
from task_arithmetic.lineage import read_record
from task_arithmetic.plan import present_plan
from task_arithmetic.trace import find_row, trace

MODES = ["nonlinear", "posthoc", "linear"]
GRID = [0.5, 1.0]
ANALYSES = {
    "linear_regime": {},
    "disentanglement": {
        "pairs": [TASKS], "grid": [0.0, 1.0], "diagonal": [0.0, 1.0], "images": 20
    },
    "initialization": {
        "tasks": TASKS, "steps": [0], "modes": ["nonlinear"], "negation": True,
        "diagonal": [0.0, 1.0], "images": 20,
    },
    "kernel": {"pairs": [TASKS], "samples": 4, "share": 0.9, "memory_mb": 200},
    "costs": {},
}  # fmt: skip
SUMS = {
    "merging": {"coefficients": GRID, "methods": {"ties": {"keep": 0.2}, "iso_c": {}}},
    "subsets": {"coefficients": GRID, "samples": 1, "sweeps": 2},
    "negation_baselines": {"coefficients": GRID},
    "ablations": {
        "tasks": TASKS, "learning_rates": [1.0e-4], "snapshots": [2], "reseed": 1000,
        "coefficients": GRID,
    },
    "analogies": {
        "styles": [["printed", "shapes"]], "modes": ["nonlinear", "posthoc"], "samples": [8],
        "finetuning": {"steps": 2}, "sample_finetuning": {"steps": 2}, "coefficients": GRID,
    },
}  # fmt: skip
STARTS = ["step-0", "pretrained"]
TABLES = ["costs", "disentanglement", "initialization", "initialization_disentanglement",
          "kernel", "linear_regime", *SUMS]  # fmt: skip
FIGURES = ["costs", "disentanglement_diagonals", "disentanglement_planes", "emergence",
           "initialization", "kernel", "linear_regime", "merging_methods", "pairs", "subsets",
           "negation_baselines", "ablations", "analogies"]  # fmt: skip
JOBS = [
    *(f"table {table}" for table in TABLES),
    *(f"page of table {table}" for table in TABLES),
    "page of the provenance",
    "page of what was run",
    *(f"figure {figure}" for figure in FIGURES),
    *(f"disentanglement errors of tiny, {mode}, seed 0" for mode in MODES),
    "network at linearized weights, tiny, seed 0",
    "costs of the modes of tiny, seed 0",
    "tiny after 0 steps of pre-training",
    *(f"heads from scratch for tiny, {start}" for start in STARTS),
    *(f"tangent kernels of tiny, {start}" for start in STARTS),
    *(
        f"task vectors of tiny from {start}, {mode}, seed 0"
        for start in STARTS
        for mode in ("nonlinear", "linear")
    ),
    *(f"edits of tiny from {start}, seed 0" for start in STARTS),
    *(f"variants of fine-tuning tiny on {task}, seed 0" for task in TASKS),
    *(f"merged models, {mode}, seed 0" for mode in MODES),
    "sums over subsets, nonlinear, seed 0",
    *(f"sums over all subsets, {mode}, seed 0" for mode in ("posthoc", "linear")),
    "baselines of negation, seed 0",
    "ablations of addition, seed 0",
    "dataset printed",
    "pictures of the datasets",
    "zero-shot head of printed for tiny",
    "sub-populations of printed+shapes, tiny, nonlinear, seed 0",
    "analogies of printed+shapes, tiny, nonlinear, seed 0",
    "analogies of printed+shapes, tiny, posthoc, seed 0",
]


@pytest.fixture(scope="module")
def analysed(finished_project, tmp_path_factory):
    """Return a finished project with analyses configured, and the jobs planned for them."""
    project = finished_project.copy_to(tmp_path_factory.mktemp("analyses") / "project")

    def add(config):
        config.update(analyses=ANALYSES, **SUMS)
        shapes = config["datasets"]["shapes"]
        printed = {**shapes, "source": {**shapes["source"], "style": "clean"}}
        config["datasets"]["printed"] = printed

    project.configure(add)
    planned = project.planned("all")
    done = project.run("--cores", "2", "all")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return project, planned


def table(analysed, name):
    return pd.read_csv(analysed[0].result(f"tables/{name}.csv"))


def test_analyses_are_made_from_what_is_there(analysed):
    project, planned = analysed
    assert planned == sorted(JOBS)
    assert project.planned("all") == []


def test_every_analysis_is_a_target(analysed):
    names = [*ANALYSES, *SUMS, "similarity"]
    assert analysed[0].planned(*(f"all_{name}" for name in names)) == []


def test_every_mode_and_start_is_in_the_tables(analysed):
    tables = {name: table(analysed, name) for name in TABLES}
    for name in ("costs", "disentanglement", "initialization"):
        assert set(tables[name]["mode"]) == set(MODES)
    for name in ("initialization", "initialization_disentanglement", "kernel"):
        assert set(tables[name]["start"]) == set(STARTS)
    assert set(tables["linear_regime"]["fine_tuning"]) == {"nonlinear", "linear"}
    # At α1 = α2 = 0 every mode is the pre-trained network.
    origin = tables["disentanglement"].query("alpha_first == 0 and alpha_second == 0")
    assert (origin.error == 0).all()
    assert (tables["costs"].training_seconds > 0).all()


def test_moving_one_vector_alone_is_no_error_on_its_own_task(analysed):
    errors = table(analysed, "disentanglement")
    single = errors.query("distance == 'prediction' and alpha_first == 1 and alpha_second == 0")
    assert (single.error_first == 0).all()


@pytest.mark.parametrize("mode", ["posthoc", "linear"])
def test_sums_by_a_pass_and_from_stored_features_agree(analysed, mode):
    merged, every = table(analysed, "merging"), table(analysed, "subsets")
    merged = merged[(merged["mode"] == mode) & (merged["method"] == "addition")]
    every = every[(every["mode"] == mode) & (every["size"] == len(TASKS))]
    assert list(merged["alpha"].unique()) == list(every["alpha"].unique())
    by_pass, stored = (of.set_index("task")["accuracy"] for of in (merged, every))
    # One of the 40 images may lie on a border between classes.
    assert (by_pass - stored).abs().max() <= 1 / 40 + 1e-9


def test_every_analogy_is_measured_in_every_mode_and_with_samples_in_one(analysed):
    rows = table(analysed, "analogies")
    (styles,) = SUMS["analogies"]["styles"]
    targets = {f"{style}-{half}" for style in styles for half in ("first", "second")}
    for mode in SUMS["analogies"]["modes"]:
        found = rows[rows["mode"] == mode]
        methods = {"zero-shot", "analogy", "fine-tuned"}
        if mode == "nonlinear":
            methods |= {"samples", "analogy-samples"}
        assert sorted(zip(found["target"], found["method"], strict=True)) == sorted(
            (target, method) for target in targets for method in methods
        )
    # 40 test images, shared by the two halves.
    assert (rows.groupby(["mode", "styles", "method"])["total"].sum() == 80).all()
    # Every mode starts from the same pre-trained model.
    start = rows[rows["method"] == "zero-shot"]
    assert (start.groupby("target")["accuracy"].nunique() == 1).all()


@pytest.fixture(scope="module")
def plan(analysed):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(analysed[0].root)
        return present_plan()


PAPERS = ["single_task", "task_addition", "task_negation"]


@pytest.mark.parametrize("name", [*PAPERS, "similarity", *TABLES])
def test_every_table_can_be_traced_to_its_data(analysed, plan, monkeypatch, name):
    monkeypatch.chdir(analysed[0].root)
    path = f"results/embedded/tables/{name}.csv"
    frame = pd.read_csv(path)
    known = frame.columns[frame.iloc[0].notna()]
    row = find_row(path, frame[known].astype(str).iloc[0].to_dict())
    chain = json.loads(canonical_json(trace(path, row, audit([path], plan))))
    assert chain["measured"][0]["rows"]
    assert chain["encoder"]
    assert chain["heads"] or name == "similarity"
    assert any(file["path"].endswith("train.parquet") for file in chain["datasets"])
    # The kernel is that of θ0: nothing is trained.
    assert bool(chain["checkpoints"]) == (name != "kernel")
    places = ["selection", "validation", "measured", "checkpoints", "encoder", "heads", "datasets"]
    for file in (chain["table"], *(file for place in places for file in chain[place])):
        assert file["sha256"] == sha256(analysed[0].root / file["path"])
        assert file["verdict"] == "ok"
    for checkpoint in chain["checkpoints"]:
        assert checkpoint["settings"]["hyperparameters"]["seed"] in {0, 1000}
    assert {"dataset", read_record(path)["step"]} <= {code["step"] for code in chain["code"]}
    assert list(chain["audit"]) == ["ok"]


@pytest.mark.parametrize(
    ("name", "row", "edit", "files"),
    [
        ("negation_baselines", {"method": "negated", "task": "digits"}, "negation-digits",
         ["edits/tiny/0/nonlinear/negation-digits/test.csv"]),
        ("negation_baselines", {"method": "random", "task": "digits"}, "random-digits",
         ["negation_baselines/tiny/0/test.csv"]),
        ("linear_regime", {"fine_tuning": "linear", "task": "digits"}, "single-digits",
         ["analyses/tiny/0/linear_weights.csv", "edits/tiny/0/linear/all/accuracy.csv"]),
        ("merging", {"mode": "linear", "method": "ensemble", "task": "digits"}, "ensemble",
         ["subsets/tiny/0/linear/ensemble.csv"]),
        ("subsets", {"mode": "posthoc", "subset": "shapes", "task": "digits"}, "shapes",
         ["subsets/tiny/0/posthoc/subsets.csv"]),
    ],
)  # fmt: skip
def test_a_row_leads_to_the_files_that_hold_it(analysed, plan, monkeypatch, name, row, edit, files):
    monkeypatch.chdir(analysed[0].root)
    path = f"results/embedded/tables/{name}.csv"
    chain = trace(path, find_row(path, row), audit([path], plan))
    assert chain["edit"]["name"] == edit
    assert [file["path"] for file in chain["measured"]] == [f"results/embedded/{f}" for f in files]
    trained = {file["path"].split("/")[-2] for file in chain["checkpoints"]}
    if "mode" in row:
        assert trained == {"nonlinear" if row["mode"] == "posthoc" else row["mode"]}


def test_a_changed_image_count_reruns_no_training(analysed, tmp_path):
    project = analysed[0].copy_to(tmp_path / "project")
    project.configure(lambda config: config["analyses"]["disentanglement"].update(images=10))
    planned = project.planned("all")
    assert set(planned) == {
        *(f"disentanglement errors of tiny, {mode}, seed 0" for mode in MODES),
        "table disentanglement",
        "figure disentanglement_diagonals",
        "figure disentanglement_planes",
        "page of table disentanglement",
        "page of what was run",
        "page of the provenance",
    }
