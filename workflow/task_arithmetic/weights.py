"""Weights: where θ0 comes from, and whether it fits the architecture that it is meant for.

Two steps, because compute nodes are offline: `download_weights` fetches a file and writes down what
is known of it; `adopt_encoder` makes our encoder file of that file, of one given, or of no file at
all (random weights).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from task_arithmetic.architectures import (
    QUICKGELU,
    default_preprocess,
    quick_gelu,
    resolve_architecture,
)
from task_arithmetic.artifacts import (
    METADATA_KEY,
    PipelineError,
    atomic_path,
    read_json,
    read_tensors,
    write_json,
)
from task_arithmetic.encoders import (
    IMAGE_TOWER,
    Preprocess,
    build_clip,
    load_state,
    read_preprocess,
    save_encoder,
)
from task_arithmetic.foreign import below_prefix, read_foreign
from task_arithmetic.transformers_names import clip_model, is_transformers

logger = logging.getLogger(__name__)
# What a repository of open_clip's own may call its weights, the better first.
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HUB_CONFIGURATION = "open_clip_config.json"
TRANSFORMERS_CONFIGURATION = "config.json"
PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
# Only the files that OpenAI published have these beside the weights.
OPENAI_MARKS = {"input_resolution", "context_length", "vocab_size"}
# Constants that some files keep among the weights, and open_clip makes by itself.
CONSTANTS = ("attn_mask", "position_ids")


def download_weights(
    source: Mapping[str, str],
    architecture: str | Mapping[str, Any],
    output: Path,
    description: Path | None = None,
) -> None:
    """Download weights from a hub, and write down what is known of them.

    Args:
        source: `{pretrained}`, a tag of open_clip's for a named architecture, or `{hub, file}`, a
            file in a hub's model repository; either with a `revision` (default `main`).
        architecture: The architecture that they are for.
        output: The file to write, as it was downloaded.
        description: JSON to write, if wanted: `source`, `quick_gelu` (null if unknown),
            `preprocess`.

    Raises:
        PipelineError: If there is no such tag, the weights cannot be had, or they were trained with
            another activation than the architecture's.
    """
    from task_arithmetic import hub

    revision = source.get("revision", "main")
    folder = output.parent / f"{output.name}.partial"

    def fetch(repository: str, name: str) -> Path:
        return hub.fetch_file(repository, name, revision, "model", folder)

    if "pretrained" in source:
        known = _tag(architecture, source["pretrained"])
        repository, _, name = known["hf_hub"].rpartition("/")
        fetched = fetch(repository, name) if name else _first_of(fetch, repository)
    else:
        repository, known = source["hub"], {}
        if description is not None:
            known = _hub_configuration(fetch, repository)
            _check_activation(architecture, known["quick_gelu"], f"the weights of {repository}")
        fetched = fetch(repository, source["file"])
    with atomic_path(output) as temporary:
        shutil.copyfile(fetched, temporary)
    if description is not None:
        known = {
            "source": f"{repository}@{revision}",
            "quick_gelu": known.get("quick_gelu", False),
            "preprocess": {key: known[key] for key in PREPROCESS_KEYS if key in known},
        }
        write_json(description, known)
    shutil.rmtree(folder, ignore_errors=True)


def adopt_encoder(
    path: Path | str,
    model: str,
    architecture: str | Mapping[str, Any],
    source: Path | str | None = None,
    description: Path | str | None = None,
    preprocess: Mapping[str, Any] | None = None,
    random_init: int | None = None,
) -> None:
    """Make an encoder file, in float32, of pre-trained or random weights.

    Args:
        path: The encoder file to write.
        model: The model's name in the experiment.
        architecture: The configured open_clip configuration, or its name.
        source: The weights, in any floating-point type: an encoder file, or a CLIP model of
            open_clip, OpenAI or transformers in any format that `read_foreign` reads. None for
            random weights.
        description: What `download_weights` wrote down of the source.
        preprocess: The configured preprocessing, where it differs from what is known of the
            source, or else from CLIP's.
        random_init: A seed: the image tower gets random weights, and so does the text tower if
            there is no source for it.

    Raises:
        PipelineError: If the weights do not fit the architecture or its activation, have values
            that are not finite, or need a preprocessing that the project does not have.
    """
    resolved = resolve_architecture(architecture)
    known = read_json(description) if description else {}
    _check_activation(architecture, known.get("quick_gelu"), f"the weights of {source}")
    prepared = default_preprocess(resolved) | known.get("preprocess", {}) | (preprocess or {})
    more = {"weights": json.dumps(known)} if known else {}
    clip = _random_clip(resolved, random_init or 0)
    if source is not None:
        drawn = {name: tensor.clone() for name, tensor in clip.visual.state_dict().items()}
        if _is_encoder_file(source):
            state, metadata = read_tensors(source, kind="encoder")
            prepared = _agreed(source, metadata, resolved, architecture, model, preprocess)
            more = {key: metadata[key] for key in ("pretraining", "weights") if key in metadata}
        else:
            state = _clip_state(read_foreign(source), clip, architecture, source)
        broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise PipelineError(
                f"{source}: expected finite weights, found NaN or infinity in {broken}"
            )
        load_state(clip, {name: tensor.float() for name, tensor in state.items()}, source)
        if random_init is not None:
            clip.visual.load_state_dict(drawn)
    if random_init is not None:
        more["random_init"] = str(random_init)
    save_encoder(path, model, clip, resolved, _supported(prepared, model), more)


def _random_clip(architecture: Mapping[str, Any], seed: int) -> nn.Module:
    """Return a model with the random weights of a seed, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_clip(architecture)


def _tag(architecture: str | Mapping[str, Any], tag: str) -> dict[str, Any]:
    """Return what open_clip says of a tag: `hf_hub`, `quick_gelu` and preprocessing."""
    if not isinstance(architecture, str):
        raise PipelineError(
            f"weights: expected the architecture by name for the tag '{tag}', found a configuration"
        )
    base = architecture.removesuffix(QUICKGELU)
    found = get_pretrained_cfg(architecture, tag) or get_pretrained_cfg(base, tag)
    if not found:
        tags = {*list_pretrained_tags_by_model(base), *list_pretrained_tags_by_model(architecture)}
        raise PipelineError(
            f"weights: expected one of open_clip's tags for {architecture} "
            f"({', '.join(sorted(tags)) or 'it has none'}), found '{tag}'"
        )
    _check_activation(architecture, bool(found.get("quick_gelu")), f"the weights '{tag}'")
    return found


def _check_activation(
    architecture: str | Mapping[str, Any], of_weights: bool | None, weights: str
) -> None:
    """Refuse weights that were trained with another activation: they would work, but badly."""
    of_model = quick_gelu(resolve_architecture(architecture))
    if of_weights is None or of_weights == of_model:
        return
    names = {True: "QuickGELU", False: "GELU"}
    if isinstance(architecture, str):
        base = architecture.removesuffix(QUICKGELU)
        name, advice = f" {architecture}", f"use {base}{QUICKGELU if of_weights else ''}"
    else:
        name, advice = "", f"set quick_gelu: {str(of_weights).lower()} in it"
    raise PipelineError(
        f"{weights} were trained with {names[of_weights]}, but the architecture{name} has "
        f"{names[of_model]}; {advice}"
    )


def _first_of(fetch: Any, repository: str) -> Path:
    """Fetch the weights of a repository in the first format that it has."""
    try:
        return fetch(repository, HUB_FILES[0])
    except PipelineError as error:
        logger.info("%s; trying %s", error, HUB_FILES[1])
        return fetch(repository, HUB_FILES[1])


def _hub_configuration(fetch: Any, repository: str) -> dict[str, Any]:
    """Return activation and preprocessing as a repository states them, or that it does not."""
    try:
        stated = read_json(fetch(repository, HUB_CONFIGURATION))
        return {**stated.get("preprocess_cfg", {}), "quick_gelu": quick_gelu(stated["model_cfg"])}
    except PipelineError as error:
        logger.info("%s; trying %s", error, TRANSFORMERS_CONFIGURATION)
    try:
        stated = read_json(fetch(repository, TRANSFORMERS_CONFIGURATION))
        vision = stated.get("vision_config", stated)
        return {"quick_gelu": vision.get("hidden_act", "quick_gelu") == "quick_gelu"}
    except PipelineError as error:
        logger.warning("activation and preprocessing of %s are not known: %s", repository, error)
        return {"quick_gelu": None}


def _is_encoder_file(path: Path | str) -> bool:
    try:
        with safe_open(str(path), framework="numpy") as file:
            return json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))["kind"] == "encoder"
    except (OSError, KeyError, SafetensorError):
        return False


def _agreed(
    source: Path | str,
    metadata: Mapping[str, str],
    resolved: Mapping[str, Any],
    architecture: str | Mapping[str, Any],
    model: str,
    preprocess: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return an encoder file's preprocessing, if the configuration says the same as the file."""
    found = json.loads(metadata["architecture"])
    _check_activation(architecture, quick_gelu(found), f"the weights of {source}")
    if found != resolved:
        raise PipelineError(
            f"{source}: expected the configured architecture of {model}, found "
            f"{metadata['architecture']}; configure the same, or use other weights"
        )
    prepared = vars(read_preprocess(metadata))
    for key, value in (preprocess or {}).items():
        wanted = tuple(value) if isinstance(value, list) else value
        if prepared[key] != wanted:
            raise PipelineError(
                f"{source}: expected the configured preprocessing of {model}, {key} {wanted}, "
                f"found {prepared[key]}"
            )
    return prepared


def _clip_state(
    tensors: Mapping[str, Tensor],
    clip: nn.Module,
    architecture: str | Mapping[str, Any],
    source: Path | str,
) -> dict[str, Tensor]:
    """Return the tensors of a foreign file under the names of an open_clip model."""
    if is_transformers(tensors):
        tensors = clip_model(tensors)
    state = below_prefix(tensors, [f"{IMAGE_TOWER}{name}" for name in clip.visual.state_dict()])
    if set(state) >= OPENAI_MARKS:
        _check_activation(architecture, True, f"{source}: the weights, OpenAI's,")
    state = {
        name: tensor
        for name, tensor in state.items()
        if name not in OPENAI_MARKS and not name.endswith(CONSTANTS)
    }
    if hasattr(clip, "text"):
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    for name, tensor in clip.state_dict().items():
        # A scale is a scalar in one version of open_clip and a vector of one in another.
        if name in state and state[name].numel() == tensor.numel() == 1:
            state[name] = state[name].reshape(tensor.shape)
    return state


def _supported(preprocess: Mapping[str, Any], model: str) -> Preprocess:
    # How images are read.
    for key, done in (("interpolation", "bicubic"), ("resize_mode", "shortest")):
        if preprocess[key] != done:
            raise PipelineError(
                f"{model}: expected {key} '{done}' in its preprocessing, found '{preprocess[key]}'"
            )
    return Preprocess.of(preprocess)
