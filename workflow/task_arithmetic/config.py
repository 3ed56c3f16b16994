"""The configuration of an experiment: checked at once and completely, before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from task_arithmetic.artifacts import PipelineError

SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "config.schema.yaml"
TYPE_NAMES = {
    "array": "a list", "boolean": "true or false", "integer": "an integer",
    "number": "a number", "object": "a mapping", "string": "a text",
}  # fmt: skip


def check_config(config: Mapping[str, Any], source: str = "config.yaml") -> None:
    """Check a configuration against the schema and for consistency.

    Args:
        config: The configuration.
        source: What to call it in the message.

    Raises:
        PipelineError: At the first problem: one line with key, value and expectation.
    """
    schema = yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.path)))
    for error in errors:
        raise PipelineError(f"{source}: {_explained(error)}")
    for problem in _inconsistencies(config):
        raise PipelineError(f"{source}: {problem}")


def check_duplicate_keys(path: Path | str) -> None:
    """Check that no mapping of a YAML file has a key twice: the first value would be lost silently.

    Args:
        path: The file.

    Raises:
        PipelineError: If a key stands twice; the message names it and its line.
    """
    tree = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    waiting = [] if tree is None else [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise PipelineError(f"{path}: line {line}: expected '{key.value}' only once")
                seen.add(key.value)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def finetuning_of(config: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return the fine-tuning protocol of a task: the common one with the task's own changes.

    Args:
        config: A checked configuration.
        task: The task's name.

    Returns:
        The protocol, with exactly one of `steps` and `epochs`.
    """
    common, own = config["finetuning"], config["datasets"][task].get("finetuning", {})
    if {"steps", "epochs"} & set(own):
        common = {key: common[key] for key in common if key not in {"steps", "epochs"}}
    return {**common, **own}


def _explained(error: jsonschema.ValidationError) -> str:
    """Return what a schema error means for the user: key, expectation, found value."""
    key = ".".join(str(part) for part in error.absolute_path)
    rule, limit, found = error.validator, error.validator_value, error.instance
    prefix = f"{key}: " if key else ""
    if rule == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        unknown = sorted(set(found) - set(known))[0]
        near = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        return f"{prefix}unknown key '{unknown}'; {hint}"
    if rule == "required":
        missing = [name for name in limit if name not in found]
        return f"{prefix}expected the key '{missing[0]}', found none"
    if rule == "type":
        expected = TYPE_NAMES[limit]
        if isinstance(found, str) and limit in {"number", "integer"}:
            return (
                f"{prefix}expected {expected}, found the text '{found}'{_number_hint(found, limit)}"
            )
        return f"{prefix}expected {expected}, found {found!r}"
    if rule == "uniqueItems":
        twice = sorted({str(item) for item in found if found.count(item) > 1})
        return f"{prefix}expected each entry once, found {', '.join(twice)} more than once"
    if rule == "enum":
        return f"{prefix}expected one of {', '.join(map(str, limit))}, found {found!r}"
    expectations = {
        "minimum": f"at least {limit}",
        "maximum": f"at most {limit}",
        "exclusiveMinimum": f"more than {limit}",
        "exclusiveMaximum": f"less than {limit}",
        "minItems": f"at least {limit} entries",
        "maxItems": f"at most {limit} entries",
        "minProperties": f"at least {limit} entry",
        "pattern": error.schema.get("description", f"a text that matches {limit}"),
    }
    return f"{prefix}expected {expectations.get(rule, error.message)}, found {found!r}"


def _number_hint(text: str, expected: str) -> str:
    """Say how to write a number that YAML reads as a text, such as 1e-5."""
    try:
        value = float(text)
    except ValueError:
        return ""
    if expected == "integer" and not value.is_integer():
        return ""
    mantissa, exponent, power = text.partition("e")
    written = f"{mantissa}.0e{power}" if exponent and "." not in mantissa else repr(value)
    if expected == "integer":
        written = str(int(value))
    return f"; write {written} without quotes"


def _inconsistencies(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the schema cannot say: references, grids, choices between keys."""
    datasets, tasks, control = config["datasets"], config["tasks"], config["control"]
    for position, task in enumerate(tasks):
        if task not in datasets:
            yield f"tasks.{position}: expected {_one_of(datasets)}, found '{task}'"
    if control not in datasets:
        yield f"control: expected {_one_of(datasets)}, found '{control}'"
    if control in tasks:
        yield f"control: expected a dataset that is not a task, found '{control}'"
    alphas = config["coefficients"]
    if 0 not in alphas:
        yield f"coefficients: expected 0 (the pre-trained model) in the grid, found {alphas}"
    if alphas != sorted(alphas):
        yield f"coefficients: expected ascending numbers, found {alphas}"
    for name, dataset in datasets.items():
        keys, expected = set(dataset["source"]), {"generator", "train", "test", "seed"}
        if keys not in (expected, {"folder"}):
            yield (
                f"datasets.{name}.source: expected the keys generator, train, test, seed, "
                f"or folder alone, found {', '.join(sorted(keys)) or 'none'}"
            )
    for task in tasks:
        protocol = finetuning_of(config, task)
        if ("steps" in protocol) == ("epochs" in protocol):
            where = f"datasets.{task}." if "finetuning" in datasets[task] else ""
            found = "both" if "steps" in protocol else "none"
            yield f"{where}finetuning: expected exactly one of steps and epochs, found {found}"
        if "steps" in protocol and protocol["warmup_steps"] >= protocol["steps"]:
            yield (
                f"datasets.{task}.finetuning: expected fewer warmup_steps than the "
                f"{protocol['steps']} steps, found {protocol['warmup_steps']}"
            )
    yield from _inconsistent_analyses(config)


def _inconsistent_analyses(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the schema cannot say of the analyses: references to tasks, modes and models."""
    analyses, tasks, modes = config.get("analyses", {}), config["tasks"], config["modes"]
    named = {
        f"{name}.pairs.{position}": pair
        for name in ("disentanglement", "kernel")
        for position, pair in enumerate(analyses.get(name, {}).get("pairs", []))
    }
    initialization = analyses.get("initialization", {})
    named["initialization.tasks"] = initialization.get("tasks", [])
    for key, found in named.items():
        for task in found:
            if task not in tasks:
                yield f"analyses.{key}: expected {_one_of(tasks)}, found '{task}'"
    for mode in initialization.get("modes", []):
        if mode not in modes:
            yield f"analyses.initialization.modes: expected {_one_of(modes)}, found '{mode}'"
    for model, described in config["models"].items():
        if initialization and "pretraining" not in described:
            yield f"models.{model}: expected pretraining for analyses.initialization, found none"
    if "linear_regime" in analyses and not (
        "linear" in modes or {"nonlinear", "posthoc"} <= {*modes}
    ):
        yield (
            "analyses.linear_regime: expected the modes nonlinear and posthoc, or linear, found "
            f"{', '.join(modes)}"
        )


def _one_of(names: Sequence[str] | Mapping[str, Any]) -> str:
    return f"one of {', '.join(names)}"
