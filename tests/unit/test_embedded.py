"""The embedded tasks: deterministic, complete, and with disjoint sources for training and test."""

import numpy as np
import pytest

from task_arithmetic import embedded
from task_arithmetic.embedded_drawing import glyph, inside, noise, sample
from task_arithmetic.pretraining import CAPTIONS, captioned_images, merges_of, write_merges


@pytest.mark.parametrize("task", embedded.TASKS)
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("style", ["task", "clean"])
def test_images_are_drawn_deterministically_with_every_class(task, split, style):
    images, labels = embedded.generate(task, split, 100, 0, style)
    again, labels_again = embedded.generate(task, split, 100, 0, style)
    assert images.dtype == np.uint8
    assert images.shape == (100, 32, 32, 3)
    assert set(labels) == set(range(len(embedded.class_names(task))))
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(labels, labels_again)


@pytest.mark.parametrize("task", embedded.TASKS)
@pytest.mark.parametrize("style", ["task", "clean"])
def test_no_image_is_in_both_splits(task, style):
    train, test = (
        {image.tobytes() for image in embedded.generate(task, split, 400, 0, style)[0]}
        for split in ("train", "test")
    )
    assert not train & test


@pytest.mark.parametrize("task", sorted(set(embedded.TASKS) - {"digits"}))
def test_another_seed_draws_other_images(task):
    first, second = (embedded.generate(task, "train", 20, seed)[0] for seed in (0, 1))
    assert (first != second).any(axis=(1, 2, 3)).all()


def test_photographs_and_typefaces_of_the_test_split_are_not_trained_on():
    assert embedded.REGIONS["train"][1] < embedded.REGIONS["test"][0]
    assert not set(embedded.TYPEFACES["train"]) & set(embedded.TYPEFACES["test"])


@pytest.mark.parametrize("task", sorted(set(embedded.TASKS) - {"digits"}))
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_styles_of_a_task_share_no_randomness(task, split):
    key = [3, embedded.TASKS.index(task), split == "test"]
    drawn = {style: embedded.generate(task, split, 60, 3, style)[1] for style in ("task", "clean")}
    classes = len(embedded.class_names(task))
    expected = np.random.default_rng(key).permutation(np.arange(60) % classes)
    np.testing.assert_array_equal(drawn["task"], expected)
    assert (drawn["clean"] != expected).any()


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_clean_style_uses_the_typefaces_of_its_split(split, monkeypatch):
    used = set()
    monkeypatch.setattr(
        embedded, "glyph", lambda font, character: used.add(font) or glyph(font, character)
    )
    for task in ("letters", "digits"):
        embedded.generate(task, split, 100, 0, "clean")
    assert used == set(embedded.TYPEFACES[split])


def test_the_clean_style_uses_the_regions_of_its_split(monkeypatch):
    used = []

    def spy(files, rng, region):
        used.append(region)
        return np.zeros((len(files), 32, 32, 3))

    monkeypatch.setattr(embedded, "crops", spy)
    for split in ("train", "test"):
        embedded.generate("photos", split, 20, 0, "clean")
    assert used == list(embedded.REGIONS.values())


def test_the_task_style_is_not_the_style_of_pretraining():
    for task in set(embedded.TASKS) - {"digits"}:
        images, labels = embedded.generate(task, "train", 40, seed=0)
        clean = embedded.draw_clean(task, labels, np.random.default_rng(0))
        difference = np.abs(images.mean(axis=(0, 1, 2)) - clean.mean(axis=(0, 1, 2))).max()
        assert difference > 8 or task == "scenes", f"{task}: {difference}"


def test_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"expected an embedded task of digits, .* found 'cats'"):
        embedded.class_names("cats")
    with pytest.raises(ValueError, match="at most 1297 train images"):
        embedded.generate("digits", "train", 1298, seed=0)


def test_sampling_reads_pictures_at_their_pixel_centres():
    picture = np.arange(16.0).reshape(1, 4, 4)
    centres = (np.arange(4) + 0.5) / 2 - 1
    v, u = np.meshgrid(centres, centres, indexing="ij")
    np.testing.assert_allclose(sample(picture, u[None], v[None])[0], picture[0])
    assert (sample(picture, u[None] + 3, v[None]) == 0).all()


def test_drawing_primitives_stay_in_range():
    assert 0 <= noise(3, np.random.default_rng(0), 5).min() <= 1
    np.testing.assert_allclose(inside(np.array([-1.0, 0.0, 1.0])), [1, 0.5, 0])
    assert glyph("DejaVuSans", "A").max() == 1


def test_captions_name_the_class_as_often_as_the_noise_allows():
    images, captions = captioned_images(900, seed=0, generic=0.25, swapped=0.0)
    assert images.shape == (900, 32, 32, 3)
    vague = np.isin(captions, [unnamed for _, unnamed in CAPTIONS.values()]).mean()
    assert 0.2 < vague < 0.3
    assert captioned_images(90, 1, 0.2, 0.1)[1] == captioned_images(90, 1, 0.2, 0.1)[1]


def test_every_word_of_the_captions_is_one_token(tmp_path):
    import open_clip

    path = tmp_path / "merges.txt.gz"
    size = write_merges(path)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(path), context_length=12)
    assert tokenizer.vocab_size == size
    for named, unnamed in CAPTIONS.values():
        for text in (*(text.format("") for text in named), unnamed):
            assert len(tokenizer.encode(text)) == len(text.split())
    for task in embedded.TASKS:
        for name in embedded.class_names(task):
            assert len(tokenizer.encode(name)) == len(name.split())


def test_merges_join_words_that_share_their_parts():
    merges = merges_of(["at", "cat", "cats"])
    assert merges == [("a", "t</w>"), ("c", "at</w>"), ("c", "a"), ("ca", "t"), ("cat", "s</w>")]
