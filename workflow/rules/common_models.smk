"""Functions of the rules that make datasets, encoders, heads and fine-tuned weights."""

from task_arithmetic.architectures import vocabulary_file
from task_arithmetic.config import local_files


def get_source(name):
    """Return where a dataset comes from."""
    return config["datasets"][name]["source"]


def get_source_files(wildcards):
    """Return the local files that a dataset is read from."""
    return [str(path) for path in local_files(get_source(wildcards.dataset))]


def get_manifest(wildcards):
    """Return the manifest of a dataset's download; the others have none."""
    hub = "hub" in get_source(wildcards.dataset)
    return ["<results>/downloads/{dataset}.json"] if hub else []


def get_downloads():
    """Return what is fetched from a hub: datasets, weights, and checkpoints to import."""
    fetched = [name for name in USED_DATASETS if "hub" in get_source(name)]
    models = config["models"]
    weights = [name for name in models if is_downloaded(models[name]["weights"])]
    checkpoints = [
        f"<results>/downloads/{model}/{mode}/{task}.weights"
        for task in TASKS
        for model, by_mode in config["datasets"][task].get("checkpoints", {}).items()
        for mode, source in by_mode.items()
        if is_downloaded(source)
    ]
    return [
        *expand("<results>/downloads/{dataset}.json", dataset=fetched),
        *expand("<results>/downloads/{model}/encoder.weights", model=weights),
        *checkpoints,
    ]


def get_dataset_download_settings(wildcards):
    """Return what is fetched: what a dataset's columns are called does not matter here."""
    keys = ("hub", "revision", "config", "splits", "size_mb")
    source = get_source(wildcards.dataset)
    return canonical_json(
        {
            "dataset": wildcards.dataset,
            "source": {key: source[key] for key in keys if key in source},
        }
    )


def get_dataset_settings(wildcards):
    """Return a dataset's own slice of the configuration, without what only estimates take."""
    source = get_source(wildcards.dataset)
    estimates = ("size_mb", "images")
    return canonical_json(
        {
            "dataset": wildcards.dataset,
            "source": {key: source[key] for key in source if key not in estimates},
            "validation": config["validation"],
        }
    )


def is_downloaded(source):
    """Return whether weights come from a hub, and not from a file or from here."""
    return source != "pretrain" and bool({"pretrained", "hub"} & set(source))


def get_vocabulary(wildcards):
    """Return the file of a model's tokenizer, if it has one of its own."""
    file = vocabulary_file(config["models"][wildcards.model]["architecture"])
    return [] if file is None else [f"workflow/{file}"]


def get_encoder_weights(wildcards):
    """Return the weights to adopt: pre-trained here, downloaded, given, or none."""
    weights = config["models"][wildcards.model]["weights"]
    if weights == "pretrain":
        return rules.pretrain.output.encoder
    if is_downloaded(weights):
        return rules.download_weights.output.weights
    return weights.get("file", [])


def get_encoder_description(wildcards):
    """Return what is known of downloaded weights."""
    weights = config["models"][wildcards.model]["weights"]
    return rules.download_weights.output.description if is_downloaded(weights) else []


def get_encoder_settings(wildcards):
    """Return what decides whether weights fit the configured model, and how it sees images."""
    model = config["models"][wildcards.model]
    weights = model["weights"]
    return canonical_json(
        {
            "model": wildcards.model,
            "architecture": model["architecture"],
            "preprocess": model.get("preprocess", {}),
            "random_init": (
                None if weights == "pretrain" else weights.get("random_init")
            ),
        }
    )


def get_weights_download_settings(wildcards):
    """Return where a model's weights are downloaded from, and for what architecture."""
    model = config["models"][wildcards.model]
    return get_hub_slice(model["architecture"], model["weights"])


def get_checkpoint_download_settings(wildcards):
    """Return where a task's fine-tuned weights are downloaded from."""
    architecture = config["models"][wildcards.model]["architecture"]
    return get_hub_slice(architecture, get_imported(wildcards))


def get_hub_slice(architecture, source):
    """Return what a download of weights needs to know."""
    keys = ("pretrained", "hub", "revision", "file")
    return canonical_json(
        {
            "architecture": architecture,
            "source": {key: source[key] for key in keys if key in source},
        }
    )


def get_pretraining_settings(wildcards):
    """Return a model's architecture and pre-training."""
    model = config["models"][wildcards.model]
    keys = ("architecture", "preprocess", "pretraining")
    return canonical_json(
        {"model": wildcards.model, **{key: model[key] for key in keys}}
    )


def get_head_settings(wildcards):
    """Return a dataset's prompts."""
    dataset = config["datasets"][wildcards.dataset]
    return canonical_json(
        {
            "model": wildcards.model,
            "dataset": wildcards.dataset,
            "templates": dataset["templates"],
            "class_names": dataset.get("class_names"),
        }
    )


def get_finetune_settings(wildcards):
    """Return the fine-tuning protocol of one task, mode and seed."""
    return canonical_json(
        {
            "model": wildcards.model,
            "task": wildcards.task,
            "hyperparameters": {
                "mode": wildcards.vector_mode,
                "seed": int(wildcards.seed),
                **finetuning_of(config, wildcards.task, wildcards.model),
            },
        }
    )


def get_imported(wildcards):
    """Return where a task's fine-tuned weights are imported from; None if they are trained."""
    by_model = config["datasets"][wildcards.task].get("checkpoints", {})
    return by_model.get(wildcards.model, {}).get(wildcards.vector_mode)


def get_foreign_checkpoint(wildcards):
    """Return the file to import: downloaded or given."""
    source = get_imported(wildcards)
    if is_downloaded(source):
        return rules.download_checkpoint.output.weights
    return source["file"]


def get_import_settings(wildcards):
    """Return what an imported checkpoint is."""
    return canonical_json(
        {
            "model": wildcards.model,
            "task": wildcards.task,
            "mode": wildcards.vector_mode,
        }
    )


def get_checkpoint(wildcards):
    """Return the fine-tuned weights of a task: imported if the configuration says so."""
    if get_imported(wildcards):
        return rules.import_checkpoint.output.checkpoint
    return rules.finetune.output.checkpoint
