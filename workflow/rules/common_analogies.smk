"""Functions of the rules of the analogies; without their section there are none."""

import re

from task_arithmetic.config import changed_finetuning

ANALOGIES = config.get("analogies", {"styles": [], "modes": []})
# A pair of datasets with the same classes, by its name in paths.
STYLES = {"+".join(pair): pair for pair in ANALOGIES["styles"]}


wildcard_constraints:
    # An empty constraint would be none.
    styles="|".join(map(re.escape, STYLES)) or "none",


def get_style_files(name):
    """Return a function of wildcards that gives one file per dataset of a pair."""
    return lambda wildcards: expand(name, style=STYLES[wildcards.styles])


def get_analogy_train(wildcards):
    """Return the training images that samples are taken from: none in the tangent modes."""
    if wildcards.mode != "nonlinear" or not ANALOGIES["samples"]:
        return []
    return get_style_files("<results>/datasets/{style}/train.parquet")(wildcards)


def get_analogy_vectors(wildcards):
    """Return the task vectors of the sub-populations that a mode moves along."""
    vectors = (
        "<results>/analogies/{{model}}/{{seed}}/{vector_mode}/{{styles}}.safetensors"
    )
    return expand(vectors, vector_mode=VECTOR_MODES[wildcards.mode])


def get_analogy_protocol(wildcards, mode, key):
    """Return the fine-tuning protocol of the sub-populations, or of few images."""
    return {
        "mode": mode,
        "seed": int(wildcards.seed),
        **changed_finetuning(config, wildcards.model, ANALOGIES[key]),
    }


def get_analogy_vectors_settings(wildcards):
    """Return the pair of datasets, and how its sub-populations are fine-tuned on."""
    protocol = get_analogy_protocol(wildcards, wildcards.vector_mode, "finetuning")
    return canonical_json(
        {
            "model": wildcards.model,
            "styles": STYLES[wildcards.styles],
            "hyperparameters": protocol,
        }
    )


def get_analogies_settings(wildcards):
    """Return the grid of α, and in the non-linear mode how few images are trained on."""
    mode, trained = wildcards.mode, wildcards.mode == "nonlinear"
    protocol = get_analogy_protocol(wildcards, mode, "sample_finetuning")
    return canonical_json(
        {
            "model": wildcards.model,
            "seed": int(wildcards.seed),
            "mode": mode,
            "styles": STYLES[wildcards.styles],
            "coefficients": ANALOGIES["coefficients"],
            "samples": ANALOGIES["samples"] if trained else [],
            "hyperparameters": protocol if trained else None,
            "batch_size": config["evaluation"]["batch_size"],
        }
    )


def get_analogy_files():
    """Return the measured analogies of all models, seeds, modes and pairs."""
    return expand(
        "<results>/analogies/{model}/{seed}/{mode}/{styles}.csv",
        model=config["models"],
        seed=config["seeds"],
        mode=ANALOGIES["modes"],
        styles=STYLES,
    )
