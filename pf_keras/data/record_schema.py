"""The content of a record: a `tf.train.Example` with the keys of the public ImageNet converters.

Only `parse`, a function for `tf.data`, needs TensorFlow. Everything else needs protobuf alone.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

ENCODED = "image/encoded"
FILENAME = "image/filename"
LABEL = "image/class/label"
TEXT = "image/class/text"

NO_LABEL = -1  # the label of a record without one; stored labels begin at 1

_KINDS = {ENCODED: "bytes_list", FILENAME: "bytes_list", LABEL: "int64_list"}  # the keys that `parse` reads


@dataclass(frozen=True)
class Keys:
    """The keys of a record that `parse` reads. `label` is empty where no label is read."""

    image: str = ENCODED
    label: str = LABEL
    filename: str = FILENAME


def named_keys(pairs: Sequence[str]) -> dict[str, str]:
    """The fields of `Keys` that `data.keys` names, such as `("image=jpg", "label=cls")`."""
    return dict(pair.split("=", 1) for pair in pairs)


# tensorflow/core/example/{example,feature}.proto, in the text form of a FileDescriptorProto.
_PROTO = """
name: "pf_keras_example.proto" package: "pf_keras" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type_name: ".pf_keras.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL type_name: ".pf_keras.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type_name: ".pf_keras.Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: ".pf_keras.Features.FeatureEntry" }
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: ".pf_keras.Feature" }
  }
}
message_type { name: "Example" field { name: "features" number: 1 label: LABEL_OPTIONAL type_name: ".pf_keras.Features" } }
"""


@functools.cache
def _example() -> type:
    """The protobuf class `Example`. It reads and writes the same bytes as TensorFlow's."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pf_keras.Example"))


def make_example(
    *, filename: str, label: int | None = None, synset: str = "", text: str = "", **image: bytes | int | str
) -> bytes:
    """Serialize an image as an Example. The same arguments always give the same bytes.

    Args:
        filename: unique within its split.
        label: from 1. None leaves out `label`, `synset` and `text`.
        synset: the class as ImageNet or the folder names it.
        text: the class's name for people.
        image: `encoded`, the bytes of the image file; `height` and `width` in pixels, as stored in the file; `channels`, 1 to
            4; `colorspace`, "RGB" or "Grayscale"; `format`, "JPEG" or "PNG".
    """
    values = {f"image/{name}": value for name, value in image.items()} | {FILENAME: filename}
    if label is not None:
        values |= {LABEL: label, "image/class/synset": synset, "image/class/text": text}
    example = _example()()
    for key, value in values.items():
        feature = example.features.feature[key]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(value.encode() if isinstance(value, str) else value)
    return example.SerializeToString(deterministic=True)


def read_example(serialized: bytes) -> dict[str, bytes | int | float]:
    """Read the first value of each key of a serialized Example.

    Raises:
        ValueError: the bytes are something else, or an Example that `parse` refuses.
    """
    example = _parsed(_example()(), serialized)
    values = _first_values(example.features)
    if (count := len(example.features.feature[ENCODED].bytes_list.value)) != 1:
        raise ValueError(f"{ENCODED} has {count} values, not one")
    return values


def read_features(serialized: bytes) -> dict[str, bytes | int | float]:
    """Read the first value of each key of a serialized Features message, which may lack the image.

    Raises:
        ValueError: the bytes are something else, a key has a value of a wrong type, or there are several labels.
    """
    return _first_values(_parsed(_example()().features, serialized))


def read_lists(serialized: bytes) -> dict[str, list]:
    """All values of each key of a serialized Example, of whatever type. An empty list for a key without values.

    Raises:
        ValueError: the bytes are something else.
    """
    features = _parsed(_example()(), serialized).features.feature.items()
    return {key: list(getattr(f, f.WhichOneof("kind")).value) if f.WhichOneof("kind") else [] for key, f in features}


def name_and_label(values: dict[str, bytes | int | float]) -> tuple[str, int]:
    """The file name of a record that was read, or an empty string, and its label as stored, or `NO_LABEL`."""
    return values.get(FILENAME, b"").decode("utf-8", "backslashreplace"), values.get(LABEL, NO_LABEL)


def _parsed(message, serialized: bytes):
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(serialized)
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example ({error})") from None
    return message


def _first_values(features) -> dict[str, bytes | int | float]:
    values = {}
    for key, feature in features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind and kind != _KINDS.get(key, kind):
            raise ValueError(f"{key} has a {kind}, not a {_KINDS[key]}")
        if kind and (value := getattr(feature, kind).value):
            if key == LABEL and len(value) > 1:
                raise ValueError(f"{key} has {len(value)} values, not one")
            values[key] = value[0]
    return values


def parse(serialized, keys: Keys = Keys(), classes: Sequence[bytes] | None = None) -> dict[str, object]:
    """Parse a record in a `tf.data` graph. Reads files of the public converters too.

    Args:
        serialized: scalar string tensor.
        keys: where the record has its values.
        classes: the texts of the classes, if labels are stored as text. The label is then a place in this list.

    Returns:
        Scalar tensors: `encoded` (string), the image file; `label` (int64) as stored, or `NO_LABEL`; `filename` (string),
        possibly empty.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not an Example, the image is missing or has several values, there are
            several labels, `classes` lacks the label, or one of the three keys has a value of another type.
    """
    import tensorflow as tf

    names, types = [keys.filename], [tf.string]
    if keys.label:
        names, types = [*names, keys.label], [*types, tf.int64 if classes is None else tf.string]
    # tf.io.parse_single_example and tf.io.parse_single_sequence_example read beyond the end of some damaged records and crash
    # the process. This older operation uses protobuf's own reader. An Example has the wire format of a SequenceExample that
    # consists of a context alone.
    values = tf.raw_ops.ParseSingleSequenceExample(
        serialized=serialized,
        context_dense_keys=[keys.image],
        context_dense_shapes=[()],
        context_dense_defaults=[tf.constant((), tf.string)],  # no default: the key is required
        context_sparse_keys=names,
        context_sparse_types=types,
        feature_list_sparse_keys=[],
        feature_list_dense_keys=[],
        feature_list_dense_missing_assumed_empty=[],
        debug_name="record",
    )
    filename, *labels = values.context_sparse_values  # each with zero or more elements
    return {
        "encoded": values.context_dense_values[0],
        "label": _one_label(labels[0], keys.label, classes) if labels else tf.constant(NO_LABEL, tf.int64),
        "filename": tf.concat([filename, [""]], 0)[0],
    }


def _one_label(values, key: str, classes: Sequence[bytes] | None):
    """The int64 label among the values of a key, or `NO_LABEL` without a value. Several values raise an error."""
    import tensorflow as tf

    if classes is not None:
        values = tf.boolean_mask(values, tf.not_equal(values, b""))
    count = tf.size(values)
    # The raw operation, because tf.debugging.Assert adds a branch, which takes longer than all else here.
    one = tf.raw_ops.Assert(condition=count <= 1, data=[f"{key} has", count, "values, not one"])
    with tf.control_dependencies([one] if one is not None else []):
        if classes is None:
            return tf.concat([values, [NO_LABEL]], 0)[0]
        places = tf.where(tf.equal(values[:, None], tf.constant(classes, tf.string)[None]))[:, 1]
    # The classes were read from the same records, so an unknown one means that the file changed meanwhile.
    known = tf.debugging.Assert(tf.size(places) == count, [f"{key} is", values, "which is no known class"])
    with tf.control_dependencies([known]):
        return tf.concat([places, [NO_LABEL]], 0)[0]
