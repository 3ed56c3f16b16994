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
         "keys generator, train, test, seed, or folder alone, found generator"),
        ("datasets.digits.templates", ["no place"], "datasets.digits.templates.0: expected"),
        ("analyses.kernel.pairs", [["digits", "cats"]], "analyses.kernel.pairs.0: expected one of"),
        ("analyses.initialization.tasks", ["digits", "cats"], "analyses.initialization.tasks: "
         "expected one of "),
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
