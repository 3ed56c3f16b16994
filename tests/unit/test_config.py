"""A mistake in the configuration is one clear line, and the shipped configuration has none."""

import copy
from pathlib import Path

import pytest
import yaml

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.config import check_config, check_duplicate_keys, finetuning_of

DEFAULT = yaml.safe_load((Path(__file__).parents[2] / "config.yaml").read_text())


@pytest.fixture
def config():
    return copy.deepcopy(DEFAULT)


def put(config, path, value):
    *parents, last = path.split(".")
    for key in parents:
        config = config.setdefault(key, {})
    config[last] = value


def expected(**changes):
    """Return published numbers, of which one is changed."""
    value = {
        "table": "task_addition",
        "mode": "linear",
        "measure": "accuracy",
        "source": "a",
        "percent": {"tiny": 50.0},
    }
    return {"tolerance": 3, "sources": {"a": "A"}, "values": [value | changes]}


def test_the_default_configuration_is_valid(config):
    check_config(config)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("datasets.digits.templats", [], "datasets.digits: unknown key 'templats'; did you mean"),
        ("finetuning.learning_rate", "1e-5", "finetuning.learning_rate: expected a number, found "
         "the text '1e-5'; write 1.0e-5 without quotes"),
        ("datasets.digits.finetuning", {"steps": -3}, "datasets.digits.finetuning.steps: expected "
         "at least 1, found -3"),
        ("finetuning.batch_size", 2.5, "finetuning.batch_size: expected an integer, found 2.5"),
        ("finetuning.precision", "fp8", "finetuning.precision: expected one of fp32, bf16, fp16, "
         "found 'fp8'"),
        ("tasks", ["digits", "digits", "letters"], "tasks: expected each entry once, found digits"),
        ("tasks", ["digits", "cats"], "tasks.1: expected one of digits, "),
        ("ablations.tasks", ["digits", "cats"], "ablations.tasks.1: expected one of digits, "),
        ("modes", ["linear"], "negation_baselines: expected nonlinear among the modes"),
        ("merging.methods.ties", {}, "merging.methods.ties: expected the key 'keep', found none"),
        ("merging.methods.tiess", {"keep": 0.2}, "merging.methods: unknown key 'tiess'; did you "),
        ("subsets.coefficients", [0.0, 1.0], "subsets.coefficients.0: expected more than 0, found"),
        ("control", "nowhere", "control: expected one of digits, "),
        ("control", "digits", "control: expected a dataset that is not a task, found 'digits'"),
        ("coefficients", [0.1, 0.2], "coefficients: expected 0 (the pre-trained model) in the "),
        ("coefficients", [0.0, 1.0, 0.5], "coefficients: expected ascending numbers, found "),
        ("modes", ["nonlinear", "tangent"], "modes.1: expected one of nonlinear, posthoc, linear, "
         "found 'tangent'"),
        ("seeds", [], "seeds: expected at least 1 entries, found []"),
        ("seeds", 0, "seeds: expected a list, found 0"),
        ("seeds", ["3"], "seeds.0: expected an integer, found the text '3'; write 3 without"),
        ("experiment", "a/b", "experiment: expected a name of letters, digits, dots, hyphens"),
        ("control_threshold", 1.5, "control_threshold: expected at most 1, found 1.5"),
        ("finetuning.epochs", 3, "finetuning: expected exactly one of steps and epochs, found "
         "both"),
        ("finetuning.warmup_steps", 10**6, "datasets.digits.finetuning: expected fewer "
         "warmup_steps than the"),
        ("datasets.digits.source", {"generator": "digits"}, "datasets.digits.source: expected the "
         "keys generator, seed, test, train and perhaps style, found generator"),
        ("datasets.digits.source.style", "neon", "datasets.digits.source.style: expected one of "
         "task, clean, found 'neon'"),
        ("analogies.styles", [["letters", "cats"]], "analogies.styles.0: expected one of digits, "),
        ("analogies.styles", [["letters", "letters"]], "analogies.styles.0: expected each entry "
         "once, found letters"),
        ("analogies.styles", [["letters"]], "analogies.styles.0: expected at least 2 entries"),
        ("analogies.modes", ["linear"], "analogies.modes: expected nonlinear for the samples"),
        ("analogies.samples", [0], "analogies.samples.0: expected at least 1, found 0"),
        ("analogies.coefficients", [0.0, 1.0], "analogies.coefficients.0: expected more than 0"),
        ("analogies.finetuning.epochs", 3, "analogies.finetuning: expected exactly one of steps "
         "and epochs, found both"),
        ("analogies.sample_finetuning.steps", 5, "analogies.sample_finetuning: expected fewer "
         "warmup_steps than the 5 steps, found"),
        ("datasets.digits.source", {"hub": "a/b", "splits": {"test": "t"}}, "datasets.digits.source"
         ": expected the keys hub, revision, splits and perhaps config, image, images, label, "
         "size_mb, found hub, splits"),
        ("datasets.digits.source", {"folder": "x", "seed": 1}, "datasets.digits.source: expected "
         "the keys folder, found folder, seed"),
        ("datasets.digits.source", {"parquet": {"test": ["t"]}}, "datasets.digits.source: expected "
         "a train split of a task, found none"),
        ("datasets.digits.source", {"hub": "b", "revision": "main", "splits": {"test": "t"}},
         "datasets.digits.source.hub: expected"),
        ("datasets.digits.class_names", 3, "datasets.digits.class_names: expected a list or a "
         "mapping or a text, found 3"),
        ("datasets.digits.class_names", "cifar", "datasets.digits.class_names: expected"),
        ("expected", expected(source="b"), "expected.values.0.source: expected one of a, "
         "found 'b'"),
        ("expected", expected(percent={"big": 1}), "expected.values.0.percent: expected one of "
         "tiny, found 'big'"),
        ("datasets.digits.templates", ["no place"], "datasets.digits.templates.0: expected"),
        ("models.tiny.weights", "shipped", "models.tiny.weights: expected one of pretrain, found "),
        ("models.tiny.weights", {}, "models.tiny.weights: expected pretrain, or the keys file, or "
         "pretrained, or hub and file, or random_init, found none"),
        ("models.tiny.weights.pretrained", "openai", "models.tiny.weights: expected pretrain, or "),
        ("models.tiny.weights", {"pretrained": "openai"}, "models.tiny.architecture: expected a "
         "name, for the tag 'openai'"),
        ("models.tiny.weights", {"random_init": "0"}, "models.tiny.weights.random_init: expected "
         "an integer"),
        ("models.tiny.architecture", "ViT-B-23", "models.tiny.architecture: expected an open_clip "
         "model name, found 'ViT-B-23'; did you mean ViT-B-32"),
        ("datasets.digits.checkpoints", {"huge": {}}, "datasets.digits.checkpoints: expected one "
         "of tiny, found 'huge'"),
        ("datasets.digits.checkpoints", {"tiny": {"posthoc": {"file": "x"}}}, "datasets.digits."
         "checkpoints.tiny: unknown key 'posthoc'; expected one of linear, nonlinear"),
        ("datasets.digits.checkpoints", {"tiny": {"linear": {"file": "x", "revision": "y"}}},
         "datasets.digits.checkpoints.tiny.linear: expected hub beside revision"),
        ("analyses.kernel.pairs", [["digits", "cats"]], "analyses.kernel.pairs.0: expected one of"),
        ("analyses.initialization.tasks", ["digits", "cats"], "analyses.initialization.tasks: "
         "expected one of "),
        ("analyses.initialization.finetuning.steps", 5, "analyses.initialization.finetuning: "
         "expected fewer warmup_steps than the 5 steps, found"),
        ("analyses.disentanglement.grids", [0, 1], "analyses.disentanglement: unknown key 'grids'; "
         "did you mean 'grid'?"),
        ("analyses.disentanglement.diagonal", [0, 2], "analyses.disentanglement.diagonal.1: "
         "expected at most 1, found 2"),
        ("models.tiny.checkpoints", "step.safetensors", "models.tiny.checkpoints: expected"),
    ],
)  # fmt: skip
def test_a_mistake_names_key_expectation_and_value(config, path, value, message):
    put(config, path, value)
    with pytest.raises(PipelineError) as error:
        check_config(config)
    assert str(error.value).startswith(f"config.yaml: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "weights",
    [
        {"file": "encoder.safetensors"},
        {"file": "encoder.safetensors", "random_init": 0},
        {"pretrained": "openai"},
        {"pretrained": "openai", "revision": "main", "random_init": 1},
        {"hub": "a/b", "file": "c.bin"},
        {"hub": "a/b", "revision": "main", "file": "c.bin"},
        {"random_init": 0},
        "pretrain",
    ],
)
def test_weights_come_from_one_place(config, weights):
    config["models"]["tiny"]["weights"] = weights
    if "pretrained" in weights:
        config["models"]["tiny"]["architecture"] = "ViT-B-32-quickgelu"
    check_config(config)


def test_a_mode_of_the_analogies_is_one_of_the_experiment(config):
    config["modes"] = ["nonlinear"]
    config.pop("analyses")
    with pytest.raises(PipelineError, match=r"analogies\.modes: expected one of nonlinear, "):
        check_config(config)


def test_a_style_needs_images_to_train_on(config):
    config["datasets"]["sketches"] = {
        "source": {"parquet": {"test": ["test.parquet"]}}, "templates": ["a {}"]
    }  # fmt: skip
    config["analogies"]["styles"] = [["letters", "sketches"]]
    with pytest.raises(PipelineError, match=r"sketches\.source: expected a train split"):
        check_config(config)


def test_pretraining_needs_its_settings(config):
    config["models"]["tiny"]["weights"] = "pretrain"
    del config["models"]["tiny"]["pretraining"]
    with pytest.raises(PipelineError, match=r"tiny: expected the key 'pretraining' for weights: "):
        check_config(config)


def test_a_missing_key_is_named(config):
    del config["control"]
    with pytest.raises(PipelineError, match=r"config\.yaml: expected the key 'control'"):
        check_config(config)


def test_a_key_given_twice_is_named_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("tasks: [a]\ndatasets:\n  a: {x: 1}\n  a: {x: 2}\n")
    with pytest.raises(PipelineError, match=r"twice\.yaml: line 4: expected 'a' only once"):
        check_duplicate_keys(path)


def test_a_task_changes_the_common_protocol_for_itself(config):
    config["finetuning"] |= {"steps": 200, "learning_rate": 0.001}
    config["datasets"]["digits"]["finetuning"] = {"epochs": 3}
    protocol = finetuning_of(config, "digits")
    assert protocol["epochs"] == 3
    assert "steps" not in protocol
    assert protocol["learning_rate"] == 0.001
    assert finetuning_of(config, "letters") == config["finetuning"] | config["datasets"][
        "letters"
    ].get("finetuning", {})


def test_a_model_changes_the_protocol_and_a_task_changes_that(config):
    config["finetuning"] |= {"steps": 200, "accumulation": 1}
    config["models"]["tiny"]["finetuning"] = {"accumulation": 2, "learning_rate": 0.002}
    config["datasets"]["digits"]["finetuning"] = {"epochs": 3, "learning_rate": 0.003}
    check_config(config)
    protocol = finetuning_of(config, "digits", "tiny")
    assert (protocol["accumulation"], protocol["epochs"]) == (2, 3)
    assert protocol["learning_rate"] == 0.003
    assert "steps" not in protocol
    assert finetuning_of(config, "letters", "other")["accumulation"] == 1


def test_an_analysis_wants_the_modes_that_it_compares(config):
    config["modes"] = ["nonlinear"]
    with pytest.raises(PipelineError, match=r"analyses\.linear_regime: expected the modes"):
        check_config(config)
    del config["analyses"]["linear_regime"]
    config["analyses"]["initialization"]["modes"] = ["linear"]
    with pytest.raises(PipelineError, match=r"initialization\.modes: expected one of nonlinear"):
        check_config(config)


def test_analyses_are_optional(config):
    del config["analyses"]
    check_config(config)
