"""Costs: passes and sizes against counting by hand and against open_clip's own towers."""

import pytest

from task_arithmetic.architectures import resolve_architecture
from task_arithmetic.estimates import (
    PlannedJob,
    clip_parameters,
    costs,
    forward_flops,
    forward_passes,
    images_of,
    render_costs,
    tower_parameters,
)

CONFIG = {
    "validation": {"fraction": 0.1, "maximum": 5000, "seed": 0},
    "planning": {"tflops": 10},
    "models": {"big": {"architecture": "ViT-B-32"}},
    "datasets": {
        "a": {"source": {"hub": "x", "images": {"train": 1000, "test": 200}, "size_mb": 7}},
        "b": {"source": {"hub": "y", "images": {"test": 50000}}},
        "own": {"source": {"hub": "z", "images": {"train": 10, "validation": 3, "test": 5}}},
        "unknown": {"source": {"folder": "pets"}},
    },
}


def job(rule, gpus=1, local=False, **settings):
    return PlannedJob(rule, settings, "big", gpus, local)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_parameters_and_operations_are_those_of_the_real_tower(name):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from task_arithmetic.encoders import build_clip

    architecture = resolve_architecture(name)
    with torch.device("meta"):
        tower = build_clip(architecture).visual
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            tower(torch.empty(1, 3, 224, 224))
    assert tower_parameters(architecture) == pytest.approx(
        sum(p.numel() for p in tower.parameters()), rel=1e-3
    )
    with torch.device("meta"):
        whole = build_clip(architecture)
    assert clip_parameters(architecture) == pytest.approx(
        sum(p.numel() for p in whole.parameters()), rel=1e-3
    )
    assert forward_flops(architecture) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_tower_of_another_kind_is_not_guessed():
    assert forward_flops(resolve_architecture("RN50")) is None
    assert tower_parameters(resolve_architecture("convnext_base")) is None


def test_images_are_held_out_by_the_papers_rule():
    assert images_of(CONFIG, "a") == {"train": 900, "validation": 100, "test": 200}
    assert images_of(CONFIG, "b") == {"train": 0, "validation": 5000, "test": 45000}
    assert images_of(CONFIG, "own") == {"train": 10, "validation": 3, "test": 5}
    assert images_of(CONFIG, "unknown") is None


def test_jobs_take_as_many_passes_as_their_arithmetic():
    steps = {"mode": "linear", "steps": 7, "batch_size": 4}
    epochs = {"mode": "nonlinear", "epochs": 2, "batch_size": 4}
    both = ["validation", "test"]
    expected = [
        (job("finetune", task="a", hyperparameters=steps), 5 * 7 * 4),
        (job("finetune", task="a", hyperparameters=epochs), 3 * 2 * 900),
        (job("finetune", task="unknown", hyperparameters=epochs), None),
        (job("features", dataset="a", splits=both, vectors=["x", "y"]), 300 * (1 + 2 * 2)),
        (job("nonlinear_curve", datasets=["a", "b"], splits=["test"], alphas=[]), 45200),
        (job("nonlinear_curve", datasets=["a"], splits=both, alphas=[0, 0.5, 1]), 900),
        (job("nonlinear_curve", datasets=["unknown"], splits=both, alphas=[0]), None),
        (job("kernel", samples=3), None),
        (job("selection", 0, True), 0),
    ]
    assert [forward_passes(each, CONFIG) for each, _ in expected] == [n for _, n in expected]


# Validation and test images of a, own and b: 100 and 200, 3 and 5, 5000 and 45000.
def test_analyses_take_as_many_passes_as_their_arithmetic():
    tasks, both = ["a", "own"], {"nonlinear": "nonlinear", "linear": "linear"}
    steps = {"mode": "nonlinear", "steps": 7, "batch_size": 4}
    epochs = {"mode": "linear", "epochs": 2, "batch_size": 4}
    grid = {"tasks": tasks, "coefficients": [0.5, 1.0]}
    merge = {**grid, "methods": {"ties": {}, "tsv": {}}}
    start = {
        "tasks": tasks, "images": 10, "alphas": [0.0, 0.5, 1.0], "diagonal": [0.0, 1.0],
        "control": None,
    }  # fmt: skip
    analogies = {
        "styles": tasks, "coefficients": [0.5, 1.0], "samples": [2, 9], "hyperparameters": steps,
        "mode": "nonlinear",
    }  # fmt: skip
    expected = [
        # Three methods on the grid, and on test images the mean as well.
        (job("merge", **merge, mode="nonlinear"), 3 * 2 * 103 + 4 * 205),
        (job("merge", **merge, mode="linear"), 7 * 103 + 9 * 205),
        # {a} or {own}, and {a, own}; the ensemble.
        (job("nonlinear_subsets", **grid, samples=1), 2 * 3 * 51.5 + 2 * 205 + 2 * 205),
        (job("variants", task="a", hyperparameters=steps, variants={
            "ascent": {}, "longer": {"changes": {"steps": 9}},
        }), 3 * 4 * (7 + 9)),
        (job("negation_baselines", **grid, control="b"),
         2 * 3 * (103 + 2 * 5000) + 4 * (205 + 2 * 45000)),
        (job("ablations", **grid, rates=["r"], snapshots=[1, 2]), 6 * (2 * 103 + 2 * 205)),
        (job("analogy_vectors", styles=tasks, hyperparameters=steps), 4 * 3 * 7 * 4),
        (job("analogy_vectors", styles=tasks, hyperparameters=epochs), 5 * 2 * (900 + 10)),
        # Batches are of 2 and of 4 images.
        (job("analogies", **analogies),
         2 * 2 * 103 + 3 * 205 + 2 * (4 * 3 * 7 * 2 + 205) + 2 * (4 * 3 * 7 * 4 + 205)),
        (job("analogies", **(analogies | {"mode": "posthoc"})), 2 * 3 * 103 + 7 * 205),
        (job("linear_weights", tasks=tasks), 205),
        # Four points of the plane, with (1, 1) of the diagonal among them.
        (job("disentanglement", tasks=tasks, pairs=[tasks], grid=[0, 1], diagonal=[1], images=10),
         10 * (2 * 4 + 2 * 2)),
        (job("checkpoint", step=3, pretraining={"batch_size": 8}), 3 * 3 * 8),
        (job("checkpoint", step=0, pretraining=None), 0),
        (job("pretrain", pretraining={"images": 100, "passes": 2}), 3 * 200),
        (job("probe_heads", datasets=tasks), 910),
        (job("start_vectors", hyperparameters={"a": steps, "own": epochs}), 3 * 28 + 5 * 20),
        (job("start_edits", **start, modes={"nonlinear": "nonlinear"}),
         10 * (8 + 5 * 2) + 10 * (2 * 2 + 2 * 2)),
        (job("start_edits", **start, modes={"linear": "linear"}), 2 * 2 * 10 * 5),
        (job("start_edits", **(start | {"control": "b"}), modes=both),
         10 * (8 + 5 * 2 + 5 * 4) + 10 * (2 * 2 + 2 * 2) + 2 * 3 * 10 * 5),
        (job("merge", **(merge | {"tasks": ["a", "unknown"]}), mode="linear"), None),
    ]  # fmt: skip
    for each, passes in expected:
        assert forward_passes(each, CONFIG) == passes, each.rule


def test_analyses_keep_a_tower_per_vector():
    variants = {"ascent": {}, "reseeded": {"snapshots": [1, 2]}}
    jobs = [job("variants", task="a", variants=variants, hyperparameters={
        "mode": "nonlinear", "steps": 1, "batch_size": 1,
    })]  # fmt: skip
    (cost,) = costs(jobs, CONFIG)
    assert cost.disk == pytest.approx(4 * 4 * 87.8e6, rel=0.01)


def test_costs_add_up_by_rule_and_say_what_is_unknown():
    linear = {"mode": "linear", "steps": 100, "batch_size": 128}
    unknown = {"mode": "linear", "epochs": 1, "batch_size": 128}
    jobs = [job("selection", 0, True), *[job("finetune", task="a", hyperparameters=linear)] * 3]
    by_rule = {cost.rule: cost for cost in costs(jobs, CONFIG)}
    flops = forward_flops(resolve_architecture("ViT-B-32"))
    hours = 3 * 5 * 100 * 128 * flops / 10e12 / 3600
    assert by_rule["finetune"].gpu_hours == pytest.approx(hours)
    assert by_rule["finetune"].disk == pytest.approx(3 * 4 * 87.8e6, rel=0.01)
    assert (by_rule["selection"].jobs, by_rule["selection"].gpu_hours) == (1, 0)
    text = render_costs(costs(jobs, CONFIG), 10)
    assert "selection" in text and "here" in text and "10 TFLOP/s" in text
    jobs.append(job("finetune", task="unknown", hyperparameters=unknown))
    assert {cost.rule: cost for cost in costs(jobs, CONFIG)}["finetune"].gpu_hours is None
    assert "?" in render_costs(costs(jobs, CONFIG), 10)
