"""The record schema against TensorFlow's Example."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pf_keras.data import record_schema as schema

FIELDS = dict(
    encoded=b"\xff\xd8", height=3, width=4, channels=3, colorspace="RGB", format="JPEG", filename="potter's wheel.JPEG"
)


def test_keys_and_types_are_those_of_the_public_converters():
    import tensorflow as tf

    data = schema.make_example(**FIELDS, label=7, synset="n01440764", text="tench, Tinca tinca")
    example = tf.train.Example.FromString(data)
    values = {key: getattr(f, f.WhichOneof("kind")).value[:] for key, f in example.features.feature.items()}
    assert values == {
        "image/encoded": [b"\xff\xd8"],
        "image/height": [3],
        "image/width": [4],
        "image/channels": [3],
        "image/colorspace": [b"RGB"],
        "image/format": [b"JPEG"],
        "image/filename": [b"potter's wheel.JPEG"],
        "image/class/label": [7],
        "image/class/synset": [b"n01440764"],
        "image/class/text": [b"tench, Tinca tinca"],
    }
    assert example.SerializeToString(deterministic=True) == data
    assert schema.read_example(data)["image/class/text"] == b"tench, Tinca tinca"


def test_parse_returns_stored_values_and_defaults_for_missing_keys():
    import tensorflow as tf

    other = tf.train.Example()
    other.features.feature["image/encoded"].bytes_list.value.append(b"jpeg")
    other.features.feature["image/object/bbox/xmin"].float_list.value.extend([0.1, 0.2])
    data = [
        schema.make_example(**FIELDS, label=7),
        schema.make_example(**FIELDS),
        other.SerializeToString(),
    ]
    rows = list(tf.data.Dataset.from_tensor_slices(data).map(schema.parse).as_numpy_iterator())
    assert [row["label"] for row in rows] == [7, -1, -1]
    assert [row["filename"] for row in rows] == [b"potter's wheel.JPEG", b"potter's wheel.JPEG", b""]
    assert [row["encoded"] for row in rows] == [b"\xff\xd8", b"\xff\xd8", b"jpeg"]
    empty = tf.data.Dataset.from_tensors(tf.train.Example().SerializeToString())
    with pytest.raises(tf.errors.InvalidArgumentError, match="'image/encoded' is required but could not be found"):
        list(empty.map(schema.parse))


def test_other_bytes_raise_value_error():
    for read in (schema.read_example, schema.read_features):
        with pytest.raises(ValueError):
            read(b"\x0a\xff\xff")


def test_features_are_read_without_the_image():
    import tensorflow as tf

    features = tf.train.Example.FromString(schema.make_example(**FIELDS, label=7)).features
    del features.feature["image/encoded"]
    values = schema.read_features(features.SerializeToString())
    assert (values["image/filename"], values["image/class/label"]) == (b"potter's wheel.JPEG", 7)


VALUES = {"bytes_list": st.binary(max_size=3), "int64_list": st.integers(-2, 9), "float_list": st.just(0.5)}
FEATURE = st.sampled_from(list(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), st.lists(VALUES[kind], max_size=2)))
KEYS = st.sampled_from(["image/encoded", "image/filename", "image/class/label", "image/height"])


@settings(deadline=None)
@given(st.dictionaries(KEYS, st.none() | FEATURE))
def test_read_example_accepts_and_refuses_the_same_records_as_parse(features):
    import tensorflow as tf

    example = tf.train.Example()
    for key, feature in features.items():
        example.features.feature[key].SetInParent()  # the key is there without a list
        if feature:
            kind, values = feature
            getattr(example.features.feature[key], kind).SetInParent()
            getattr(example.features.feature[key], kind).value.extend(values)
    data = example.SerializeToString()
    try:
        parsed = schema.parse(tf.constant(data))
    except tf.errors.InvalidArgumentError:
        with pytest.raises(ValueError):
            schema.read_example(data)
        return
    found = schema.read_example(data)
    assert found["image/encoded"] == parsed["encoded"].numpy()
    assert found.get("image/filename", b"") == parsed["filename"].numpy()
    assert found.get("image/class/label", schema.NO_LABEL) == parsed["label"].numpy()


def example_with(label, key="image/class/label"):
    """A serialized Example with these values, all numbers or all texts, in one key instead of a label."""
    import tensorflow as tf

    example = tf.train.Example.FromString(schema.make_example(**FIELDS))
    feature = example.features.feature[key]
    (feature.bytes_list if isinstance(label[0], bytes) else feature.int64_list).value.extend(label)
    return example.SerializeToString()


@pytest.mark.parametrize("labels", [[3, 5], [b"ant", b"bee"]])
def test_several_labels_are_refused_but_not_looked_at_without_need(labels):
    import tensorflow as tf

    data = example_with(labels)
    text = isinstance(labels[0], bytes)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)image/class/label has.*2.*values, not one"):
        schema.parse(tf.constant(data), classes=[b"ant", b"bee"] if text else None)
    for read in (schema.read_example, schema.read_features):
        with pytest.raises(ValueError, match="has a bytes_list" if text else "image/class/label has 2 values, not one"):
            read(data if read is schema.read_example else tf.train.Example.FromString(data).features.SerializeToString())
    assert int(schema.parse(tf.constant(data), schema.Keys(label=""))["label"]) == schema.NO_LABEL


def test_texts_are_places_in_the_list_of_classes():
    import tensorflow as tf

    keys = schema.Keys(label="cls")

    def label_of(data):
        return int(schema.parse(tf.constant(data), keys, [b"ant", b"bee"])["label"])

    assert [label_of(example_with([name], "cls")) for name in (b"bee", b"ant", b"")] == [1, 0, -1]
    assert label_of(schema.make_example(**FIELDS)) == -1
    with pytest.raises(tf.errors.InvalidArgumentError, match="which is no known class"):
        label_of(example_with([b"wasp"], "cls"))


def test_read_lists_gives_all_values_of_all_keys():
    assert schema.read_lists(example_with([3, 5]))["image/class/label"] == [3, 5]
    assert schema.read_lists(schema.make_example(**FIELDS))["image/encoded"] == [FIELDS["encoded"]]
    with pytest.raises(ValueError, match="not a tf.train.Example"):
        schema.read_lists(b"\xff")


@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [("image/encoded", "int64_list", 3), ("image/encoded", "float_list", 0.5), ("image/class/label", "bytes_list", b"7"),
     ("image/class/label", "float_list", 7.0), ("image/filename", "int64_list", 3)],
)  # fmt: skip
def test_parse_refuses_values_of_another_type(key, kind, value):
    import tensorflow as tf

    example = tf.train.Example.FromString(schema.make_example(**FIELDS, label=7))
    example.features.feature[key].Clear()
    getattr(example.features.feature[key], kind).value.append(value)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"feature: {key}. +Data types don't match"):
        schema.parse(tf.constant(example.SerializeToString()))


def test_parse_treats_keys_without_values_as_missing():
    import tensorflow as tf

    example = tf.train.Example.FromString(schema.make_example(**FIELDS, label=7))
    example.features.feature["image/class/label"].int64_list.Clear()
    example.features.feature["image/filename"].bytes_list.Clear()
    record = schema.parse(tf.constant(example.SerializeToString()))
    assert (int(record["label"]), record["filename"].numpy()) == (-1, b"")
