"""Data sets of a hub in a run: fetched apart, once, and what computes needs no network."""

import io

import datasets as hub_datasets
import numpy as np
import pytest
from hub_server import Hub, serving
from PIL import Image

from task_arithmetic.artifacts import read_json
from task_arithmetic.lineage import record_path


def shard(count):
    """Return a parquet file as `datasets` uploads it."""
    images = [Image.fromarray(np.full((40, 48, 3), 5 * n, np.uint8)) for n in range(count)]
    features = hub_datasets.Features(
        image=hub_datasets.Image(), label=hub_datasets.ClassLabel(names=["big_cat", "SmallDog"])
    )
    data = {"image": images, "label": [n % 2 for n in range(count)]}
    file = io.BytesIO()
    hub_datasets.Dataset.from_dict(data, features=features).to_parquet(file)
    return file.getvalue()


@pytest.fixture
def hub():
    files = {
        f"data/{split}-0000{part}-of-00002.parquet": shard(20)
        for split in ("train", "test")
        for part in range(2)
    }
    repos = {("datasets", f"someone/{name}"): dict(files) for name in ("pets", "secret")}
    with serving(Hub(repos, gated={"someone/secret"}, tokens={"hf_good"})) as running:
        yield running


@pytest.fixture
def project(new_project, tmp_path):
    """Return a project with a task from a hub and a control from a gated set."""
    project = new_project.copy_to(tmp_path / "project")

    def change(config):
        for name in ("pets", "secret"):
            splits = {"train": "train", "test": "test"} if name == "pets" else {"test": "test"}
            source = {"hub": f"someone/{name}", "revision": "main", "splits": splits}
            config["datasets"][name] = {"source": source, "templates": ["a photo of a {}"]}
        config["tasks"].append("pets")
        config["control"] = "secret"

    project.configure(change)
    return project


def test_sets_are_fetched_once_and_splits_made_without_the_hub(project, hub):
    online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": ""}
    refused = project.run("--cores", "1", "fetch", **online)
    assert refused.returncode == 1
    assert (
        f"someone/secret: a gated dataset: accept its terms at {hub.url}/datasets/someone/secret"
        in refused.stdout + refused.stderr
    )
    assert "set control: to another dataset" in refused.stdout + refused.stderr
    # The other set was fetched all the same, and is not fetched again.
    assert project.planned("fetch") == ["download of secret"]
    fetched = hub.requests["file"]
    done = project.run("--cores", "1", "fetch", **(online | {"HF_TOKEN": "hf_good"}))
    assert done.returncode == 0, done.stdout + done.stderr
    assert hub.requests["file"] == fetched + 2
    assert project.planned("fetch") == []

    requests = hub.requests.total()
    targets = [f"results/embedded/datasets/{name}/test.parquet" for name in ("pets", "secret")]
    done = project.run("--cores", "1", *targets, "results/embedded/heads/tiny/secret.safetensors")
    assert done.returncode == 0, done.stdout + done.stderr
    assert hub.requests.total() == requests
    record = read_json(record_path(project.root / targets[0]))
    downloaded = [
        entry["path"] for entry in record["inputs"] if "downloads/datasets/" in entry["path"]
    ]
    assert len(downloaded) == 4

    # Renamed classes are prompted again; the images stay.
    project.configure(
        lambda config: config["datasets"]["secret"].update(class_names={"big_cat": "lion"})
    )
    again = ["results/embedded/heads/tiny/secret.safetensors", targets[1]]
    assert project.planned(*again) == ["zero-shot head of secret for tiny"]


def test_the_costs_are_said_before_anything_is_fetched(project, hub):
    online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "", "COLUMNS": "120"}
    done = project.run("download-costs", "config.yaml", command="task-arithmetic", **online)
    assert done.returncode == 0, done.stderr
    for words in ("someone/pets", "someone/secret", "to fetch", "keeps its splits"):
        assert words in done.stdout
    assert hub.requests["file"] == 0
