"""Images for encoders: torchvision's pixels, and the same batches from memory and from disk."""

import io

import datasets as hub
import numpy as np
import pytest
import torchvision.transforms.v2 as reference
from PIL import Image

from task_arithmetic.artifacts import PipelineError
from task_arithmetic.loading import (
    CROP_AREA,
    DecodedImages,
    EncodedImages,
    in_order,
    random_crop,
    read_split,
    whole_image,
)
from task_arithmetic.splits import write_split

SIZES = [(200, 150), (150, 200), (133, 200), (124, 101), (64, 48), (97, 97), (1200, 90)]


def photograph(width, height, seed=0, mode="RGB"):
    """Return an encoded image with structure at several scales."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (8, 8, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = np.clip(pixels + random.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).convert(mode).save(file, "PNG" if mode == "P" else "JPEG")
    return file.getvalue()


@pytest.fixture
def split_file(tmp_path):
    contents = [photograph(*size, seed) for seed, size in enumerate(SIZES * 3)]
    features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=["cat", "dog"]))
    columns = {
        "image": [{"bytes": content, "path": None} for content in contents],
        "label": [seed % 2 for seed in range(len(contents))],
    }
    write_split(tmp_path / "train.parquet", hub.Dataset.from_dict(columns, features=features))
    return tmp_path / "train.parquet"


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", SIZES)
def test_an_image_has_the_pixels_that_torchvision_gives_it(size, interpolation):
    content = photograph(*size)
    transform = reference.Compose([
        reference.Resize(64, reference.InterpolationMode[interpolation.upper()]),
        reference.CenterCrop(64),
    ])
    expected = np.asarray(transform(Image.open(io.BytesIO(content)).convert("RGB")))
    np.testing.assert_array_equal(whole_image(content, 64, interpolation), expected)


def test_a_squashed_image_is_resized_on_both_sides():
    content = photograph(500, 375)
    expected = Image.open(io.BytesIO(content)).resize((64, 64), Image.Resampling.BICUBIC)
    found = whole_image(content, 64, resize_mode="squash")
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK"])
def test_images_of_other_modes_become_rgb(mode):
    assert whole_image(photograph(80, 60, mode=mode), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("size", [(200, 150), (124, 101), (97, 97)])
def test_a_random_crop_is_decided_by_its_key_alone(size):
    content = photograph(*size)
    crop = random_crop(content, 48, (0, 0, 7))
    assert crop.shape == (48, 48, 3)
    np.testing.assert_array_equal(crop, random_crop(content, 48, (0, 0, 7)))
    # A rectangle that fits is not found in every epoch.
    others = [random_crop(content, 48, (0, epoch, 7)) for epoch in range(1, 7)]
    assert any((crop != other).any() for other in others)


def test_the_middle_of_an_image_too_long_for_any_crop_is_taken():
    content = photograph(1200, 90)
    expected = Image.open(io.BytesIO(content)).crop((540, 0, 660, 90))
    expected = np.asarray(expected.resize((48, 48), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(random_crop(content, 48, (0, 0, 0)), expected)


def test_a_random_crop_keeps_nine_tenths_of_the_area():
    # A ramp from left to right: what a crop spans of it is its share of the width.
    ramp = np.tile(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], (256, 1, 3))
    turned = ramp.transpose(1, 0, 2)
    shares = []
    for index in range(40):
        spans = []
        for pixels in (ramp, turned):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            crop = random_crop(file.getvalue(), 64, (0, 0, index)).astype(float)
            spans.append((crop.max() - crop.min()) / 255)
        shares.append(spans[0] * spans[1])
    assert min(shares) > CROP_AREA[0] - 0.04
    assert np.std(shares) > 0.005


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_from_disk_are_those_from_memory(split_file, workers):
    decoded = read_split(split_file, 32)
    encoded = read_split(split_file, 32, workers, memory=1)
    assert isinstance(decoded.images, DecodedImages)
    assert isinstance(encoded.images, EncodedImages)
    assert len(encoded.images) == len(decoded.images) == 21
    order = np.random.default_rng(0).permutation(21)
    requests = [(0, order[start : start + 4]) for start in range(0, 21, 4)]
    pairs = zip(decoded.images.batches(requests), encoded.images.batches(requests), strict=True)
    for (found, expected), (_, indices) in zip(pairs, requests, strict=True):
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(expected, decoded.images.array[indices])


def test_a_pass_in_order_sees_every_image_once(split_file):
    images = read_split(split_file, 16).images
    seen = np.concatenate(list(images.batches(in_order(len(images), 8))))
    np.testing.assert_array_equal(seen, images.array)


def test_a_cropped_split_differs_by_epoch_and_seed_and_never_stays_decoded(split_file):
    one = read_split(split_file, 32, augmentation="crop", seed=1).images
    two = read_split(split_file, 32, augmentation="crop", seed=2).images
    assert isinstance(one, EncodedImages)
    everything = np.arange(21)
    first, again, later = one.batches([(0, everything), (0, everything), (1, everything)])
    np.testing.assert_array_equal(first, again)
    assert (first != later).any()
    assert (first != next(iter(two.batches([(0, everything)])))).any()


def test_a_reader_that_stops_early_leaves_nothing_running(split_file):
    images = read_split(split_file, 32, 2, memory=1).images
    batches = images.batches((0, np.arange(21)) for _ in range(1000))
    next(batches)
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_unpacked_images_leave_no_file_even_if_the_step_is_killed(
    split_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    images = read_split(split_file, 32, memory=1).images
    assert not list(tmp_path.glob("images-*"))
    expected = read_split(split_file, 32).images.array
    np.testing.assert_array_equal(next(images.batches([(0, np.arange(21))])), expected)


def test_a_folder_without_room_for_unpacked_images_is_named(split_file, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("task_arithmetic.loading.ipc.new_file", fail)
    with pytest.raises(PipelineError, match=r"No space left on device.*TMPDIR"):
        read_split(split_file, 32, memory=1)


@pytest.mark.parametrize("memory", [float("inf"), 1])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, memory):
    features = hub.Features(image=hub.Image(), label=hub.ClassLabel(names=["cat", "dog"]))
    contents = [photograph(40, 30), photograph(40, 30)[:90]]
    columns = {"image": [{"bytes": content, "path": None} for content in contents]}
    data = hub.Dataset.from_dict({**columns, "label": [0, 1]}, features=features)
    write_split(tmp_path / "test.parquet", data)
    with pytest.raises(PipelineError, match=r"test\.parquet: image 1 could not be decoded"):
        split = read_split(tmp_path / "test.parquet", 32, memory=memory)
        list(split.images.batches(in_order(2, 2)))
