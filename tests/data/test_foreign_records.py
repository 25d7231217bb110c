"""Records of other converters: their keys and labels, one shard alone, and datasets of tensorflow-datasets."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from pf_keras.config import Config, DataConfig, MaskConfig, ModelConfig
from pf_keras.data.corrupt import find_corrupt, leave_out, naming_corrupt_images
from pf_keras.data.labels import class_names, require_labels
from pf_keras.data.pipeline import training_batches
from pf_keras.data.sources import open_source
from pf_keras.errors import UserError
from tests.data import images_made as made
from tests.data.test_sources import write_tfds
from tfrecords import from_array_record


def example(**values):
    """A serialized Example. A double underscore in a name is a slash, and a value may be a list."""
    record = tf.train.Example()
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(items[0])]
        getattr(record.features.feature[name.replace("__", "/")], kind).value.extend(items)
    return record.SerializeToString()


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def write_shards(folder, labels, train=2, key="image__class__label"):
    """Write train shards and a validation shard, each with a record for each of `labels`."""
    names = [*(f"train-{i:05d}-of-{train:05d}" for i in range(train)), "validation-00000-of-00001"]
    for name in names:
        write(folder / name, [example(image__encoded=made.jpeg(), **{key: label}) for label in labels])
    return DataConfig(source=f"tfrecord:{folder}")


def read(config, source, classes=0):
    """Read two epochs of training batches."""
    config = Config(model=ModelConfig(image_size=32, grid=2, width=16, heads=2), mask=MaskConfig(block=1), data=config)
    with naming_corrupt_images(source):
        return list(training_batches(source.train, config, 2, {"n": (1,)}, classes=classes).take(source.train.size))


@pytest.mark.parametrize("label", [[1, 2], [b"ant", b"bee"]])
def test_several_labels_are_an_error_that_names_shard_and_record(tmp_path, label):
    one = label[0]
    config = write_shards(tmp_path, [one, one, label, one])
    source = open_source(config)
    with (
        pytest.raises(
            UserError, match=r"train-00000-of-00002 record 2 cannot be read: image/class/label has 2 values, not one"
        ),
        naming_corrupt_images(source),
    ):
        require_labels(source.train)
    corrupt = find_corrupt(source)
    assert [image["name"].rpartition("/")[2] for image in corrupt][0] == "train-00000-of-00002 record 2" and len(corrupt) == 3
    assert leave_out(source, corrupt, 0.5).train.labels.tolist() == [0] * 6


@pytest.mark.parametrize("labels", [[[1, 2], [3, 4]], [[b"a", b"b"], [b""]], [0.5, 1.5], [3, b"ant"]])
def test_labels_are_not_read_where_no_task_needs_them(tmp_path, labels, capsys):
    config = write_shards(tmp_path, labels)
    source = open_source(config, labels=False)
    assert len(read(config, source)) == 4 and find_corrupt(source) == []
    assert source.classes == () and set(source.train.labels.tolist()) == {-1}
    assert "labels seem to begin" not in capsys.readouterr().err


@pytest.mark.parametrize("key", ["image__class__label", "image__class__text"])
def test_labels_as_text_give_sorted_classes(tmp_path, key):
    config = write_shards(tmp_path, [b"wasp", b"ant", b"bee", b"ant"], key=key)
    source = open_source(config)
    assert class_names(source) == ("ant", "bee", "wasp")
    assert source.validation.labels.tolist() == [2, 0, 1, 0] and source.train.labels.tolist() == [2, 0, 1, 0] * 2
    labels = np.concatenate([label.numpy() for _, label in read(config, source, classes=3)])
    assert labels.sum(0).tolist() == [8, 4, 4]


def test_number_is_the_label_where_there_is_a_text_too(tmp_path):
    record = {"image__encoded": made.jpeg(), "image__class__text": b"ant"}
    for split in ("train", "validation"):
        write(tmp_path / f"{split}-00000-of-00001", [example(**record, image__class__label=n) for n in (1, 2)])
    source = open_source(DataConfig(source=f"tfrecord:{tmp_path}"))
    assert source.classes == () and source.train.labels.tolist() == [0, 1]


def test_fractions_as_labels_are_an_error(tmp_path):
    with pytest.raises(UserError, match="train-00000-of-00002 record 0 has a fraction in image/class/label"):
        open_source(write_shards(tmp_path, [0.5]))


@pytest.fixture
def foreign(tmp_path):
    """Shards whose records have the keys `jpg`, `cls` and `width`."""
    for split in ("train", "validation"):
        records = [example(jpg=made.jpeg(), cls=i % 2, width=60) for i in range(4)]
        write(tmp_path / f"{split}-00000-of-00001", records)
    return f"tfrecord:{tmp_path}"


def test_other_keys_are_an_error_with_the_flag_that_maps_them(foreign):
    with pytest.raises(UserError) as error:
        open_source(DataConfig(source=foreign))
    told = str(error.value)
    assert "train-00000-of-00001 record 0 has no image/encoded, only cls (int64), jpg (bytes), width (int64)." in told
    flag = "--config.data.keys=image=jpg,label=cls"
    assert told.endswith(f"Name the keys with {flag}.")
    config = Config().override({"data.source": foreign, "data.keys": flag.partition("keys=")[2]})
    assert Config.from_json(config.to_json()) == config and config.data.keys == ("image=jpg", "label=cls")
    source = open_source(config.data)
    assert source.train.labels.tolist() == [0, 1, 0, 1] and len(read(config.data, source, classes=2)) == 4
    unlabelled = open_source(DataConfig(source=foreign, keys=("image=jpg",)))
    with pytest.raises(UserError, match=r"has no image/class/label, only cls .*--config.data.keys=image=jpg,label=cls"):
        require_labels(unlabelled.train)


@pytest.mark.parametrize("keys", [("image=png",), ("image=jpg", "label=kind"), ("image=jpg", "filename=path")])
def test_keys_that_the_records_lack_are_an_error(foreign, keys):
    with pytest.raises(UserError, match=f"has no {keys[-1].split('=')[1]}, only cls"):
        open_source(DataConfig(source=foreign, keys=keys))


def test_unknown_name_in_data_keys_is_an_error():
    with pytest.raises(UserError, match=r"data.keys is \('picture=jpg',\). Use image=KEY, label=KEY or filename=KEY"):
        DataConfig(keys=("picture=jpg",))


def test_corrupt_first_record_does_not_hide_the_keys_of_the_others(tmp_path):
    good = [example(image__encoded=made.jpeg(), image__class__label=1) for _ in range(3)]
    for split in ("train", "validation"):
        write(tmp_path / f"{split}-00000-of-00001", [b"\xff\xff", *good])
    source = open_source(DataConfig(source=f"tfrecord:{tmp_path}"))
    assert [image["name"].rpartition("/")[2] for image in find_corrupt(source)] == [
        "train-00000-of-00001 record 0",
        "validation-00000-of-00001 record 0",
    ]


@pytest.mark.parametrize(("count", "held"), [(2, 1), (9, 1), (40, 2), (100, 5)])
def test_one_train_shard_alone_is_divided_by_record(tmp_path, count, held):
    records = [example(image__encoded=made.jpeg(), image__filename=b"%d" % i, image__class__label=i % 2) for i in range(count)]
    write(tmp_path / "train-00000-of-00001", records)
    config = DataConfig(source=f"tfrecord:{tmp_path}")
    source, again = open_source(config), open_source(config)
    assert (source.train.size, source.validation.size) == (count - held, held)
    assert source.validation.names == again.validation.names
    assert sorted(map(int, source.train.names + source.validation.names)) == list(range(count))
    assert source.validation_note.endswith("train-00000-of-00001, its only train file")
    expected = [int(name) % 2 for name in source.validation.names]
    assert source.validation.labels.tolist() == expected  # where no held out record has label 0 too
    assert open_source(config, whole=True).validation.size == count


def test_one_train_shard_with_a_corrupt_record_keeps_both_parts(tmp_path):
    records = [example(image__encoded=made.jpeg(), image__class__label=1 + i % 2) for i in range(39)]
    write(tmp_path / "train-00000-of-00001", [b"\xff\xff", *records])
    config = DataConfig(source=f"tfrecord:{tmp_path}", holdout=0.25)
    source = open_source(config)
    before = set(source.train.keys(shuffle=False).map(lambda key: key["index"]).as_numpy_iterator())
    assert len(before) == 30
    left = leave_out(source, find_corrupt(source), 0.1)
    assert left.train.size + left.validation.size == 39
    assert set(left.validation.labels.tolist()) | set(left.train.labels.tolist()) == {0, 1}


def test_two_train_shards_are_divided_by_file(tmp_path):
    for number in range(2):
        write(tmp_path / f"train-{number:05d}-of-00002", [example(image__encoded=made.jpeg()) for _ in range(3)])
    source = open_source(DataConfig(source=f"tfrecord:{tmp_path}"))
    assert source.validation.files == [str(tmp_path / "train-00001-of-00002")] and source.validation.wanted is None


def test_single_record_cannot_be_divided(tmp_path):
    write(tmp_path / "train-00000-of-00001", [example(image__encoded=made.jpeg())])
    with pytest.raises(UserError, match="its train split has a single image, too few to divide. Add images"):
        open_source(DataConfig(source=f"tfrecord:{tmp_path}"))


def test_compressed_shards_are_an_error(tmp_path):
    config = write_shards(tmp_path, [1])
    shard = tmp_path / "train-00001-of-00002"
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(UserError, match="train-00001-of-00002 is compressed with GZIP. Write it again without compression"):
        open_source(config)


def test_unknown_tfds_name_has_a_near_match(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (tmp_path / "my_own_photos" / "1.0.0").mkdir(parents=True)
    for name, meant in (("mnsit", "mnist"), ("my_own_photo:1.0.0", "my_own_photos:1.0.0")):
        with pytest.raises(UserError) as error:
            open_source(DataConfig(source=f"tfds:{name}"))
        assert str(error.value).endswith(f"Did you mean tfds:{meant}?") and str(tmp_path) in str(error.value)
    with pytest.raises(UserError, match="knows no dataset zzzzzzzz, .*Check its name and TFDS_DATA_DIR"):
        open_source(DataConfig(source="tfds:zzzzzzzz"))


def test_instructions_for_a_download_by_hand_are_printed_whole(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    steps = [f"Step {i}: register at the publisher and accept the licence of part {i}." for i in range(9)]

    class ByHand(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        MANUAL_DOWNLOAD_INSTRUCTIONS = "\n".join(steps)

        def _info(self):
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"image": tfds.features.Image()}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(dl_manager.manual_dir)}

        def _generate_examples(self, path):
            yield from ()

    with pytest.raises(UserError) as error:
        open_source(DataConfig(source="tfds:by_hand"))
    assert " ".join(steps) in " ".join(str(error.value).split()) and "\n" not in str(error.value)


def test_tfds_dataset_in_array_records_is_an_error_with_the_command_that_converts_it(tmp_path, monkeypatch):
    write_tfds(tmp_path, "ants_in_array_records", {"train": 0, "test": 12}, file_format="array_record")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder, new = tmp_path / "ants_in_array_records" / "1.0.0", tmp_path / "new"
    command = f"python -m tfrecords.from_array_record {folder} NEW, then use --data=tfrecord:NEW"
    for source in ("tfds:ants_in_array_records", f"tfrecord:{folder}", f"tfrecord:{folder.parent}"):
        with pytest.raises(UserError, match=command):
            open_source(DataConfig(source=source))
    assert from_array_record.main([str(folder), str(new)]) == 0
    assert sorted(path.name for path in new.iterdir()) == ["test-00000-of-00001", "train-00000-of-00001"]
    config = DataConfig(source=f"tfrecord:{new}", keys=("image=image", "label=label"))
    source = open_source(config)
    assert source.train.labels.tolist() == source.validation.labels.tolist() == [0, 1] * 6
    assert len(read(config, source, classes=2)) == 12
    with pytest.raises(UserError, match="new has test-00000-of-00001 already|new has train-00000-of-00001 already"):
        from_array_record.main([str(folder), str(new)])
    with pytest.raises(UserError, match="has no files such as birds-train.array_record"):
        from_array_record.main([str(new), str(tmp_path / "other")])


def test_data_keys_choose_among_the_images_and_labels_of_a_tfds_dataset(tmp_path, monkeypatch):
    write_tfds(tmp_path, "ants_of_kinds", {"train": 0, "test": 12})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = open_source(DataConfig(source="tfds:ants_of_kinds", keys=("image=annotation", "label=a_kind")))
    assert source.classes == ("insect", "beast") and source.train.labels.tolist() == [0] * 12
    with pytest.raises(UserError, match="has no label kind, only a_kind, label. Change data.keys"):
        open_source(DataConfig(source="tfds:ants_of_kinds", keys=("label=kind",)))
    assert set(open_source(DataConfig(source="tfds:ants_of_kinds"), labels=False).train.labels.tolist()) == {-1}
