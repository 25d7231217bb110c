"""Every kind of data source, with small files that the tests write."""

import dataclasses
import json
import shutil
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pf_keras.config import Config, DataConfig, MaskConfig, ModelConfig
from pf_keras.data.images import Images
from pf_keras.data.labels import class_names, describe_classes, labelled_source, require_labels
from pf_keras.data.pipeline import training_batches
from pf_keras.data.record_schema import make_example, parse
from pf_keras.data.records import FirstLabel, Records
from pf_keras.data.shard_files import count_records
from pf_keras.data.sources import open_source
from pf_keras.errors import UserError
from pf_keras.noise import pretrain_noise
from tests.data import images_made as made
from tfrecords import build as tfrecords_build


def picture(number, size=(24, 20)):
    return Image.new("RGB", size, (number * 7 % 256, number * 3 % 256, 50))


def write_folder(root, images=3, classes=("ant", "bee"), splits=("train", "val")):
    for split in splits:
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(images):
                picture(10 * c + i).save(root / split / name / f"{split}-{name}-{i}.png")


def write_records(root, split, shards, records, first_label, label_key="image/class/label"):
    for shard in range(shards):
        with tf.io.TFRecordWriter(str(root / f"{split}-{shard:05d}-of-{shards:05d}")) as writer:
            for i in range(records):
                label = (shard * records + i) % 3 + first_label
                feature = {
                    "image/encoded": tf.io.encode_jpeg(np.asarray(picture(shard * records + i))).numpy(),
                    "image/filename": f"{split}-{shard}-{i}.jpg".encode(),
                }
                example = tf.train.Example()
                for key, value in feature.items():
                    example.features.feature[key].bytes_list.value.append(value)
                example.features.feature[label_key].int64_list.value.append(label)
                writer.write(example.SerializeToString())


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = open_source(DataConfig())
    assert source.train.size + source.validation.size == 1797
    assert not set(source.train.names) & set(source.validation.names)
    digits = load_digits()
    for split in (source.train, source.validation):
        for i in (0, 17, split.size - 1):
            number = int(split.names[i][6:10])
            pixels = tf.io.decode_png(split.values[i]).numpy()[..., 0]
            np.testing.assert_allclose(pixels, digits.images[number] * 255 / 16, atol=0.5)
            assert split.labels[i] == digits.target[number]


def test_folder_with_classes_and_splits(tmp_path):
    write_folder(tmp_path)
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert source.classes == ("ant", "bee")
    assert source.train.size == source.validation.size == 6
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not source.validation_note


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "test", "Val", "TEST"])
def test_folder_with_any_name_of_a_validation_split(tmp_path, capsys, name):
    write_folder(tmp_path, splits=("train", name, "extra"))
    (tmp_path / "train" / ".trash").mkdir()
    picture(1).save(tmp_path / "train" / ".trash" / "thrown_away.png")
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert (source.train.size, source.validation.size, source.classes) == (6, 6, ("ant", "bee"))
    said = capsys.readouterr().err
    assert "its folders extra are not used" in said and "12 images; skipped: 1 hidden" in said


def test_first_of_several_validation_folders_is_used(tmp_path, capsys):
    write_folder(tmp_path, splits=("train", "test", "valid"))
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert source.validation.names[0] == "ant/valid-ant-0.png" and "its folders test are not used" in capsys.readouterr().err


def test_images_beside_folders_are_unlabelled(tmp_path, capsys):
    write_folder(tmp_path / "library", splits=("2019",))
    picture(1).save(tmp_path / "library" / "a.png")
    source = open_source(DataConfig(source=f"folder:{tmp_path / 'library'}"))
    assert source.train.size + source.validation.size == 7 and source.classes == ()
    assert set(source.train.labels) == {-1} and "a.png is not in a folder" in capsys.readouterr().err
    write_folder(tmp_path / "split")
    picture(1).save(tmp_path / "split" / "train" / "a.png")
    split = open_source(DataConfig(source=f"folder:{tmp_path / 'split'}"))
    assert (split.train.size, split.validation.size) == (7, 6) and set(split.train.labels) == {-1}
    with pytest.raises(UserError, match=f"^{tmp_path}/split/train/a.png is not in a class folder. Put labelled images in"):
        require_labels(split.train)


def test_whole_gives_all_images_where_there_is_no_validation_split(tmp_path):
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.jpg")
    source = open_source(DataConfig(source=f"folder:{tmp_path}"), whole=True)
    assert source.validation.size == 3 and source.train is source.validation and list(source.splits()) == ["validation"]
    write_records(tmp_path, "train", 2, 3, first_label=1)
    records = open_source(DataConfig(source=f"tfrecord:{tmp_path}"), whole=True)
    assert records.validation.size == 6 and records.validation_note
    write_folder(tmp_path / "own")
    own = open_source(DataConfig(source=f"folder:{tmp_path / 'own'}"), whole=True)
    assert (own.train.size, own.validation.size, own.validation_note) == (6, 6, "")


def test_folder_of_unlabelled_images_holds_out_the_same_images_each_time(tmp_path):
    for i in range(20):
        picture(i).save(tmp_path / f"{i}.jpg")
    first, again = (open_source(DataConfig(source=f"folder:{tmp_path}", holdout=0.2)) for _ in range(2))
    assert (first.train.size, first.validation.size) == (16, 4)
    assert first.validation.names == again.validation.names and first.validation_note
    assert first.classes == () and set(first.train.labels) == {-1}


def test_figures_of_a_workdir_are_skipped(tmp_path, capsys):
    write_folder(tmp_path, splits=("",))
    before = open_source(DataConfig(source=f"folder:{tmp_path}"))
    workdir = tmp_path / "runs" / "photos"
    (workdir / "figures").mkdir(parents=True)
    (workdir / "config.json").write_text("{}")
    picture(1).save(workdir / "figures" / "loss.png")
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert source.classes == ("ant", "bee")
    assert (source.train.names, source.validation.names) == (before.train.names, before.validation.names)
    assert "skipped: 1 workdirs of runs" in capsys.readouterr().err
    assert source.empty_classes == () and class_names(source) == ("ant", "bee")


def test_digest_of_images_changes_with_names_sizes_and_content(tmp_path):
    def digest():
        return open_source(DataConfig(source=f"folder:{tmp_path}"), whole=True).validation.digest()

    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    before = digest()
    assert before == digest() and len(before) == 64
    (tmp_path / "2.png").rename(tmp_path / "3.png")
    renamed = digest()
    picture(9, size=(90, 70)).save(tmp_path / "3.png")
    resized = digest()
    content = bytearray((tmp_path / "3.png").read_bytes())
    content[-20] ^= 1
    (tmp_path / "3.png").write_bytes(content)
    assert len({before, renamed, resized, digest()}) == 4


def test_sizes_of_images_are_the_bytes_of_their_files(tmp_path):
    write_folder(tmp_path)
    train = open_source(DataConfig(source=f"folder:{tmp_path}")).train
    assert train.sizes == [(tmp_path / "train" / name).stat().st_size for name in train.names]
    paths = Images(train.names, train.labels, train.values, paths=True)
    in_memory = Images(train.names, train.labels, [tf.io.read_file(path).numpy() for path in train.values])
    assert train.digest() == paths.digest() and in_memory.sizes == train.sizes
    assert train.subset([4, 1]).sizes == [train.sizes[4], train.sizes[1]]


def test_digest_of_digits_does_not_depend_on_the_version_of_pillow():
    train = open_source(DataConfig()).train
    assert set(train.sizes) == {64} and train.digest().startswith("4abe997066781bab")


def test_digest_of_records_knows_shards_by_name_count_and_size_in_any_folder(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    write_records(here, "train", 3, 5, 0)
    split = stream(here)
    before = split.digest()
    assert split.without({split.name_of(0)}).digest() != before != split.sample(5).digest()
    here.rename(there)
    assert stream(there).digest() == before
    write_records(there, "train", 3, 5, 300)  # labels above 127 take another byte
    assert stream(there).counts == split.counts and stream(there).digest() != before


@pytest.mark.parametrize("first_label", [0, 1])
def test_records_of_any_converter(tmp_path, first_label, capsys):
    write_records(tmp_path, "train", 3, 5, first_label)
    write_records(tmp_path, "validation", 1, 4, first_label)
    source = open_source(DataConfig(source=f"tfrecord:{tmp_path}"))
    assert (source.train.size, source.validation.size) == (15, 4)
    assert source.train.labels.tolist() == [i % 3 for i in range(15)]
    assert source.train.names[6] == "train-1-1.jpg"
    assert f"begin at {first_label}" in capsys.readouterr().err
    _, label = source.train.loader()(next(iter(source.train.keys(shuffle=False).skip(7))))
    assert int(label) == 7 % 3


@pytest.mark.parametrize(("train", "validation"), [((0, 1, 2), (1, 2)), ((1, 2), (0, 1, 2))])
def test_first_label_is_found_from_all_splits(tmp_path, train, validation):
    for split, labels in (("train", train), ("validation", validation)):
        with tf.io.TFRecordWriter(str(tmp_path / f"{split}-00000-of-00001")) as writer:
            for label in labels:
                writer.write(make_example(encoded=b"", height=1, width=1, channels=3, colorspace="RGB", format="JPEG",
                                          filename=f"{split}{label}", label=label))  # fmt: skip
    for asked in ("train", "validation"):  # whichever split is asked first
        source = open_source(DataConfig(source=f"tfrecord:{tmp_path}"))
        getattr(source, asked).labels  # noqa: B018
        assert (tuple(source.train.labels), tuple(source.validation.labels)) == (train, validation)


def test_classes_that_share_a_name_get_their_synset(tmp_path):
    for synset in ("n02012849", "n03126707", "n01440764"):
        (tmp_path / "in" / "train" / synset).mkdir(parents=True)
        for i in range(2):
            picture(i).save(tmp_path / "in" / "train" / synset / f"{synset}_{i}.JPEG")
    names = {"n02012849": "crane", "n03126707": "crane", "n01440764": "tench"}
    (tmp_path / "in" / "LOC_synset_mapping.txt").write_text("".join(f"{k} {v}\n" for k, v in names.items()))
    build = ["--source=folder", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--train_shards=2"]
    tfrecords_build.main(build)
    source = open_source(DataConfig(source=f"tfrecord:{tmp_path / 'out'}"))
    assert source.classes == ("tench", "crane (n02012849)", "crane (n03126707)")


def test_first_label_can_be_set(tmp_path):
    write_records(tmp_path, "train", 2, 3, first_label=1)
    source = open_source(DataConfig(source=f"tfrecord:{tmp_path}", first_label=0))
    assert source.train.labels.tolist() == [1, 2, 3]
    assert source.validation_note and source.validation.size == 3


def stream(root, buffer=6):
    paths = sorted(str(p) for p in root.glob("train-*"))
    return Records(paths, count_records(paths), parse, DataConfig(shuffle_buffer=buffer, parallel_files=2), FirstLabel(0))


def test_sample_is_the_first_records_that_are_left(tmp_path):
    write_records(tmp_path, "train", 3, 5, 0)
    split = stream(tmp_path)
    left = split.without({split.name_of(0), split.name_of(2)})
    assert [list(part.sample(5).names) for part in (split, left)] == [list(split.names)[:5], list(left.names)[:5]]
    assert left.sample(5).size == 5 and len(left.sample(5).files) == 2 and left.sample(99) is left


def test_stream_has_every_record_once_per_epoch_and_starts_anywhere(tmp_path):
    write_records(tmp_path, "train", 3, 5, 0)
    split = stream(tmp_path)
    keys = [(int(k["epoch"]), int(k["index"])) for k in split.keys(seed=2).take(45)]
    for epoch in range(3):
        part = [i for e, i in keys if e == epoch]
        assert len(part) == len(set(part)) == 15
    assert [i for _, i in keys[:15]] != [i for _, i in keys[15:30]]
    for start in (1, 14, 15, 33):
        rest = [(int(k["epoch"]), int(k["index"])) for k in split.keys(start, seed=2).take(45 - start)]
        assert rest == keys[start:]
    other = [int(k["index"]) for k in split.keys(seed=3).take(15)]
    assert other != [i for _, i in keys[:15]]


@pytest.mark.parametrize("in_memory", [True, False])
def test_subset_of_a_stream(tmp_path, in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.setattr("pf_keras.data.records.IN_MEMORY", 0)
    write_records(tmp_path, "train", 3, 5, 0)
    subset = stream(tmp_path).subset([1, 7, 14])
    assert subset.size == 3 and list(subset.names) == ["train-0-1.jpg", "train-1-2.jpg", "train-2-4.jpg"]
    assert subset.labels.tolist() == [1, 1, 2]
    seen = [subset.loader()(k)[0].numpy() for k in subset.keys(seed=1).take(6)]
    assert len(set(seen[:3])) == 3 and set(seen[:3]) == set(seen[3:])


def write_tfds(folder, name, splits, **options):
    """Write a dataset by tensorflow-datasets itself, with 12 images in each split."""
    tfds = pytest.importorskip("tensorflow_datasets")

    def examples(first):
        for i in range(first, first + 12):
            mask = np.zeros((20, 24, 3), "uint8")
            yield {"annotation": mask, "image": np.asarray(picture(i)), "label": i % 2, "a_kind": 0}

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "annotation": tfds.features.Image(shape=(None, None, 3)),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["ant", "bee"]),
                "a_kind": tfds.features.ClassLabel(names=["insect", "beast"]),
            }
        ),
        split_datasets={
            split: tf.data.Dataset.from_generator(
                lambda first=first: examples(first),
                output_signature={
                    **dict.fromkeys(("annotation", "image"), tf.TensorSpec((None, None, 3), tf.uint8)),
                    **dict.fromkeys(("label", "a_kind"), tf.TensorSpec((), tf.int64)),
                },
            )
            for split, first in splits.items()
        },
        data_dir=str(folder),
        disable_shuffling=True,
        **options,
    )


def test_tfds_dataset_prepared_on_disk(tmp_path, monkeypatch):
    write_tfds(tmp_path, "ants_and_bees", {"train": 0, "test": 100})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = open_source(DataConfig(source="tfds:ants_and_bees"))
    assert source.classes == ("ant", "bee") and (source.train.size, source.validation.size) == (12, 12)
    for position, key in enumerate(source.train.keys(shuffle=False)):
        encoded, label = source.train.loader()(key)
        assert int(label) == position % 2
        np.testing.assert_array_equal(tf.io.decode_image(encoded).numpy(), np.asarray(picture(position)))


def test_tfds_dataset_without_a_validation_split(tmp_path, monkeypatch):
    write_tfds(tmp_path, "ants_alone", {"train": 0})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config = DataConfig(source="tfds:ants_alone")
    whole = open_source(config, whole=True)
    assert whole.train is whole.validation and whole.validation.size == 12 and "ants_alone" in whole.validation_note
    one = open_source(config)
    assert (one.train.size, one.validation.size) == (11, 1) and one.validation_note.endswith("its only train file")
    folder = tmp_path / "ants_alone" / "1.0.0"
    files = [folder / f"ants_alone-train.tfrecord-0000{i}-of-00002" for i in range(2)]
    shutil.copy(folder / "ants_alone-train.tfrecord-00000-of-00001", files[0])
    (folder / "ants_alone-train.tfrecord-00000-of-00001").rename(files[1])
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["12", "12"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    two = open_source(config)
    assert (two.train.files, two.validation.files) == ([str(files[0])], [str(files[1])])
    assert (two.train.size, two.validation.size) == (12, 12) and two.validation_note.endswith(str(files[1]))


def test_all_sources_feed_the_pipeline(tmp_path):
    write_folder(tmp_path / "folder", images=4)
    (tmp_path / "records").mkdir()
    write_records(tmp_path / "records", "train", 2, 8, 1)
    base = Config(model=ModelConfig(image_size=32, grid=2, width=16, heads=2), mask=MaskConfig(block=1))
    for source in ("digits", f"folder:{tmp_path / 'folder'}", f"tfrecord:{tmp_path / 'records'}"):
        config = dataclasses.replace(base, data=DataConfig(source=source))
        batches = training_batches(open_source(config.data).train, config, 4, pretrain_noise(config))
        batch = next(iter(batches))
        assert batch["image"].shape == (4, 32, 32, 3) and batch["image"].dtype == tf.uint8


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("imagenet", ("--data=imagenet is not a data source", "folder:DIR")),
        ("folder:", ("folder:",)),
        ("folder:/no/such/place", ("/no/such/place",)),
        ("folder:gs://bucket/photos", ("is a URL", "tfrecords.build", "--input=gs://bucket/photos")),
        ("csv:gs://bucket/labels.csv", ("is a URL",)),
        ("csv:/no/such/labels.csv", ("There is no CSV file at /no/such/labels.csv",)),
        ("tfrecord:/no/such/place", ("/no/such/place",)),
        ("tfds:no_such_data_set", ("no_such_data_set",)),
    ],
)
def test_error_names_an_unknown_source(source, words):
    with pytest.raises(UserError) as caught:
        open_source(DataConfig(source=source))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match=f"^{tmp_path} has no images .*Check the path"):
        open_source(DataConfig(source=f"folder:{tmp_path}"))


@pytest.mark.parametrize("splits", [("valid", "Val"), ("dev", "validation"), ("val", "test")])
def test_folders_named_like_splits_are_not_classes(tmp_path, splits):
    write_folder(tmp_path, splits=splits)
    with pytest.raises(UserError, match=f"^{tmp_path} has {' and '.join(sorted(splits))}, but no folder named train"):
        open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert open_source(DataConfig(source=f"folder:{tmp_path}"), whole=True).train.size  # nothing is trained on them


@pytest.mark.parametrize("splits", [("Training", "testing"), ("training", "Val"), ("TRAIN", "Dev")])
def test_other_words_for_splits_are_understood(tmp_path, splits):
    write_folder(tmp_path, splits=splits)
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert source.validation_note == "" and set(source.classes) == {"ant", "bee"}


def test_many_small_classes_are_held_out_from_as_a_whole(tmp_path):
    """One image of each class would be half of them."""
    for day in range(40):
        for number in range(2):
            (tmp_path / f"{day:02d}").mkdir(exist_ok=True)
            (tmp_path / f"{day:02d}" / f"{number}.png").write_bytes(made.encoded(made.pixels(), "PNG"))
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert (source.train.size, source.validation.size) == (76, 4) and "classes are small" in source.validation_note


def test_home_of_an_unknown_user_is_an_error():
    with pytest.raises(UserError, match="^~nobody_of_that_name/photos is not a directory"):
        open_source(DataConfig(source="folder:~nobody_of_that_name/photos"))


def test_folder_with_links_to_it_is_read_once_under_its_own_name(tmp_path, capsys):
    write_folder(tmp_path / "photos", classes=("bee", "cat"))
    write_folder(tmp_path / "elsewhere", classes=("dog",))
    train = tmp_path / "photos" / "train"
    (train / "ant").symlink_to(train / "bee")
    (train / "ant_hill").symlink_to(train / "bee")
    (train / "cat" / "loop").symlink_to(train)
    (train / "dog").symlink_to(tmp_path / "elsewhere" / "train" / "dog")
    source = open_source(DataConfig(source=f"folder:{tmp_path / 'photos'}"))
    assert source.classes == ("bee", "cat", "dog") and np.bincount(source.train.labels).tolist() == [3, 3, 3]
    assert "15 images; skipped: 3 folders listed already" in capsys.readouterr().err


def test_class_missing_in_train_is_an_error_where_classes_are_trained(tmp_path):
    write_folder(tmp_path, splits=("train",))
    write_folder(tmp_path, splits=("val",), classes=("ant", "wasp"))
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert source.classes == ("ant", "bee", "wasp") and source.validation.labels.tolist() == [0, 0, 0, 2, 2, 2]
    with pytest.raises(UserError, match="The class wasp has no image to train on"):
        class_names(source)


def test_class_folder_without_images_is_an_error_where_classes_are_trained(tmp_path):
    write_folder(tmp_path)
    for name in ("cicada", "wasp"):
        (tmp_path / "train" / name).mkdir()
    (tmp_path / "train" / "cicada" / "notes.txt").write_text("none yet")
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert source.classes == ("ant", "bee") and source.train.size == 6
    with pytest.raises(UserError, match=r"The class cicada \(and 1 more\) has no image to train on"):
        class_names(source)


def test_class_whose_images_were_all_left_out_is_an_error(tmp_path):
    write_folder(tmp_path)
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    left = dataclasses.replace(source, train=source.train.subset([0, 1]))
    with pytest.raises(UserError, match="The class bee has no image to train on"):
        class_names(left)


def test_any_tree_of_unlabelled_images_is_held_out_from_as_a_whole(tmp_path):
    for name in ("a.png", "2019/b.png", "2019/05/c.png", "2020/d.png", "e.png"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(tmp_path / "train" / name)
    source = open_source(DataConfig(source=f"folder:{tmp_path}", holdout=0.4))
    assert (source.train.size, source.validation.size, source.classes) == (3, 2, ())


def test_validation_images_without_labels_are_replaced_where_labels_are_needed(tmp_path, capsys):
    write_folder(tmp_path, images=5, splits=("train",))
    (tmp_path / "test").mkdir()
    for i in range(3):
        picture(i).save(tmp_path / "test" / f"{i}.png")
    config = DataConfig(source=f"folder:{tmp_path}", holdout=0.2)
    source = open_source(config)
    assert (source.train.size, source.validation.size) == (10, 3)  # for pre-training
    labelled = labelled_source(source, config.holdout)
    assert (labelled.train.size, labelled.validation.labels.tolist()) == (8, [0, 1])
    assert f"validation: 20% of each class of the training images, because {tmp_path}/test/0.png" in capsys.readouterr().err
    (tmp_path / "test").rename(tmp_path / "unused")
    alone = open_source(config)
    assert alone.validation.names == labelled.validation.names
    assert labelled_source(alone, config.holdout) is alone


def test_classes_are_matched_in_either_form_of_unicode(tmp_path):
    for split, form in (("train", "NFD"), ("val", "NFC")):
        write_folder(tmp_path, classes=("ant", unicodedata.normalize(form, "b\u00e9e")), splits=(split,))
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    assert source.classes == ("ant", "be\u0301e")  # as the training folder has it
    assert source.train.labels.tolist() == source.validation.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert class_names(source) == source.classes


def test_splits_one_folder_down_are_pointed_out(tmp_path, capsys):
    write_folder(tmp_path / "dataset")
    source = open_source(DataConfig(source=f"folder:{tmp_path}"))
    said = capsys.readouterr().err
    assert f"Did you mean --data=folder:{tmp_path}/dataset?" in said
    assert "dataset/train/ant into dataset" in said and source.classes == ("dataset",)


def test_classes_are_described_in_one_line(tmp_path):
    write_folder(tmp_path, images=2, classes=("ant", "bee"))
    assert describe_classes(open_source(DataConfig(source=f"folder:{tmp_path}"))) == "classes: ant (2), bee (2)"
    write_folder(tmp_path, images=1, classes=[f"z{i}" for i in range(8)])
    assert describe_classes(open_source(DataConfig(source=f"folder:{tmp_path}"))).endswith("z5 (1), ... (10 in all)")
    picture(1).save(tmp_path / "train" / "a.png")
    assert "classes: none, 13 images" in describe_classes(open_source(DataConfig(source=f"folder:{tmp_path}")))


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_split_without_records_is_an_error(tmp_path, empty):
    for split in ("train", "validation"):
        write_records(tmp_path, split, 1, 0 if split == empty else 3, 1)
    with pytest.raises(UserError, match=f"The {empty} split of tfrecord:.* has no images"):
        open_source(DataConfig(source=f"tfrecord:{tmp_path}"))


def test_names_in_records_may_be_any_bytes(tmp_path):
    for split in ("train", "validation"):
        write_records(tmp_path, split, 1, 3, 1)
        file = tmp_path / f"{split}-00000-of-00001"
        examples = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(file))]
        with tf.io.TFRecordWriter(str(file)) as writer:
            for example in examples:
                example.features.feature["image/filename"].bytes_list.value[0] = b"caf\xe9.jpg"
                writer.write(example.SerializeToString())
    assert open_source(DataConfig(source=f"tfrecord:{tmp_path}")).train.names == [r"caf\xe9.jpg"] * 3


def test_manifest_that_counts_too_many_records_is_an_error(tmp_path):
    from pf_keras.data.corrupt import naming_corrupt_images
    from pf_keras.data.pipeline import evaluation_batches

    for split in ("train", "val"):
        (tmp_path / "images" / split / "ant").mkdir(parents=True)
        for i in range(5):
            picture(i).save(tmp_path / "images" / split / "ant" / f"{split}{i}.png")
    place = tmp_path / "records"
    flags = ["--source=folder", f"--input={tmp_path / 'images'}", f"--output={place}", "--processes=1"]
    assert tfrecords_build.main([*flags, "--train_shards=1", "--validation_shards=1"]) == 0
    manifest = json.loads((place / "manifest.json").read_text())
    for shard in manifest["shards"]:
        shard["records"] += 1
    (place / "manifest.json").write_text(json.dumps(manifest))
    config = dataclasses.replace(Config(), data=DataConfig(source=f"tfrecord:{place}"))
    source = open_source(config.data)
    with pytest.raises(UserError, match="expected to contain 6 elements"), naming_corrupt_images(source):
        list(evaluation_batches(source.validation, config, 4))
