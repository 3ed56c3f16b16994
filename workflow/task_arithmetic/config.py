"""The configuration of an experiment: checked at once and completely, before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from task_arithmetic.architectures import resolve_architecture
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


def finetuning_of(config: Mapping[str, Any], task: str, model: str | None = None) -> dict[str, Any]:
    """Return the fine-tuning protocol of a task: the common one with changes by model and task.

    Args:
        config: A checked configuration.
        task: The task's name.
        model: The model's name; None for the protocol of a model without changes.

    Returns:
        The protocol, with exactly one of `steps` and `epochs`. What the task changes goes before
        what the model changes.
    """
    return changed_finetuning(config, model, config["datasets"][task].get("finetuning", {}))


def changed_finetuning(
    config: Mapping[str, Any], model: str | None, *changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the common fine-tuning protocol with changes by model and others.

    Args:
        config: A checked configuration.
        model: The model's name; None for one without changes.
        *changes: What goes before what the model changes, the last one first.

    Returns:
        The protocol, with exactly one of `steps` and `epochs`.
    """
    protocol = dict(config["finetuning"])
    for own in (config["models"].get(model, {}).get("finetuning", {}), *changes):
        if {"steps", "epochs"} & set(own):
            protocol = {key: protocol[key] for key in protocol if key not in {"steps", "epochs"}}
        protocol |= own
    return protocol


def style_datasets(config: Mapping[str, Any]) -> list[str]:
    """Return the datasets of the analogies, sorted."""
    return sorted({name for pair in config.get("analogies", {}).get("styles", []) for name in pair})


def local_files(source: Mapping[str, Any]) -> list[Path]:
    """Return the files of this machine that a data set is read from; a generated one has none."""
    if "folder" in source:
        return sorted(Path(source["folder"]).glob("*/*/*.*"))
    named = (path for paths in source.get("parquet", {}).values() for path in paths)
    return sorted({Path(path) for path in named})


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
        kinds = [limit] if isinstance(limit, str) else limit
        expected = " or ".join(TYPE_NAMES[kind] for kind in kinds)
        if isinstance(found, str) and limit in ("number", "integer"):
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
    yield from _model_problems(config["models"])
    yield from _checkpoint_problems(datasets, config["models"])
    alphas = config["coefficients"]
    if 0 not in alphas:
        yield f"coefficients: expected 0 (the pre-trained model) in the grid, found {alphas}"
    if alphas != sorted(alphas):
        yield f"coefficients: expected ascending numbers, found {alphas}"
    for name, dataset in datasets.items():
        trained = name in tasks or name in style_datasets(config)
        yield from _source_problems(name, dataset["source"], trained)
    for name in ("negation_baselines", "ablations"):
        if name in config and "nonlinear" not in config["modes"]:
            yield f"{name}: expected nonlinear among the modes that it is compared with, found none"
    for place, task in enumerate(config.get("ablations", {}).get("tasks", [])):
        if task not in tasks:
            yield f"ablations.tasks.{place}: expected {_one_of(tasks)}, found '{task}'"
    for model, task in product(config["models"], tasks):
        where = f"datasets.{task}.finetuning"
        own = where if "finetuning" in datasets[task] else "finetuning"
        yield from _protocol_problems(own, where, finetuning_of(config, task, model))
    yield from _analysis_problems(config)
    yield from _analogy_problems(config)
    expected = config.get("expected", {"values": []})
    for position, value in enumerate(expected["values"]):
        where, sources = f"expected.values.{position}", expected["sources"]
        if value["source"] not in sources:
            yield f"{where}.source: expected {_one_of(sources)}, found '{value['source']}'"
        for model in sorted(set(value["percent"]) - set(config["models"])):
            yield f"{where}.percent: expected {_one_of(config['models'])}, found '{model}'"


def _protocol_problems(own: str, where: str, protocol: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the length of a fine-tuning, and with that of its warm-up."""
    if ("steps" in protocol) == ("epochs" in protocol):
        found = "both" if "steps" in protocol else "none"
        yield f"{own}: expected exactly one of steps and epochs, found {found}"
    if "steps" in protocol and protocol["warmup_steps"] >= protocol["steps"]:
        yield (
            f"{where}: expected fewer warmup_steps than the {protocol['steps']} steps, "
            f"found {protocol['warmup_steps']}"
        )


def _analogy_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the schema cannot say of the analogies."""
    analogies = config.get("analogies")
    if analogies is None:
        return
    for place, pair in enumerate(analogies["styles"]):
        for name in pair:
            if name not in config["datasets"]:
                where = f"analogies.styles.{place}"
                yield f"{where}: expected {_one_of(config['datasets'])}, found '{name}'"
    for mode in analogies["modes"]:
        if mode not in config["modes"]:
            yield f"analogies.modes: expected {_one_of(config['modes'])}, found '{mode}'"
    if analogies["samples"] and "nonlinear" not in analogies["modes"]:
        yield "analogies.modes: expected nonlinear for the samples, found none"
    for model, key in product(config["models"], ("finetuning", "sample_finetuning")):
        where = f"analogies.{key}"
        yield from _protocol_problems(
            where, where, changed_finetuning(config, model, analogies[key])
        )


def _source_problems(name: str, source: Mapping[str, Any], task: bool) -> Iterator[str]:
    """Yield what is wrong with the keys of a source, of which each kind has its own."""
    columns = {"image", "label"}
    needed, optional = {
        "folder": ({"folder"}, set()),
        "hub": ({"hub", "revision", "splits"}, columns | {"config", "images", "size_mb"}),
        "parquet": ({"parquet"}, columns),
    }.get(
        next((kind for kind in ("folder", "hub", "parquet") if kind in source), ""),
        ({"generator", "train", "test", "seed"}, {"style"}),
    )
    keys = set(source)
    if not needed <= keys <= needed | optional:
        more = f" and perhaps {', '.join(sorted(optional))}" if optional else ""
        yield (
            f"datasets.{name}.source: expected the keys {', '.join(sorted(needed))}{more}, "
            f"found {', '.join(sorted(keys)) or 'none'}"
        )
    splits = source.get("splits", source.get("parquet"))
    if task and splits is not None and "train" not in splits:
        yield f"datasets.{name}.source: expected a train split of a task, found none"


def _model_problems(models: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with where models come from."""
    choices = ({"file"}, {"pretrained"}, {"pretrained", "revision"}, {"hub", "file"},
               {"hub", "revision", "file"})  # fmt: skip
    for name, model in models.items():
        weights, where = model["weights"], f"models.{name}"
        try:
            resolve_architecture(model["architecture"])
        except PipelineError as error:
            yield f"{where}.{error}"
        if weights == "pretrain":
            for key in ("preprocess", "pretraining"):
                if key not in model:
                    yield f"{where}: expected the key '{key}' for weights: pretrain, found none"
            if missing := {"size", "mean", "std"} - set(model.get("preprocess", {})):
                yield f"{where}.preprocess: expected the keys {', '.join(sorted(missing))}"
            continue
        keys = set(weights) - {"random_init"}
        if keys not in choices and (keys or "random_init" not in weights):
            yield (
                f"{where}.weights: expected pretrain, or the keys file, or pretrained, or hub and "
                f"file, or random_init, found {', '.join(sorted(weights)) or 'none'}"
            )
        if "pretrained" in weights and not isinstance(model["architecture"], str):
            yield f"{where}.architecture: expected a name, for the tag '{weights['pretrained']}'"


def _checkpoint_problems(datasets: Mapping[str, Any], models: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the fine-tuned models to import."""
    for name, dataset in datasets.items():
        where = f"datasets.{name}.checkpoints"
        for model, by_mode in dataset.get("checkpoints", {}).items():
            if model not in models:
                yield f"{where}: expected {_one_of(models)}, found '{model}'"
            for mode, source in by_mode.items():
                if "revision" in source and "hub" not in source:
                    yield f"{where}.{model}.{mode}: expected hub beside revision, found none"


def _analysis_problems(config: Mapping[str, Any]) -> Iterator[str]:
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
    for model, task in product(config["models"], named["initialization.tasks"]):
        own = config["datasets"].get(task, {}).get("finetuning", {})
        changes = own, initialization.get("finetuning", {})
        where = "analyses.initialization.finetuning"
        yield from _protocol_problems(where, where, changed_finetuning(config, model, *changes))
    for mode in initialization.get("modes", []):
        if mode not in modes:
            yield f"analyses.initialization.modes: expected {_one_of(modes)}, found '{mode}'"
    for model, described in config["models"].items():
        if any(initialization.get("steps", [])) and "pretraining" not in described:
            yield (
                f"models.{model}: expected pretraining for the steps after 0 of "
                "analyses.initialization, found none"
            )
    if "linear_regime" in analyses and not (
        "linear" in modes or {"nonlinear", "posthoc"} <= {*modes}
    ):
        yield (
            "analyses.linear_regime: expected the modes nonlinear and posthoc, or linear, found "
            f"{', '.join(modes)}"
        )


def _one_of(names: Sequence[str] | Mapping[str, Any]) -> str:
    return f"one of {', '.join(names)}"
