"""The record schema: a `tf.train.Example` with the keys of the public ImageNet converters.

`make_example` and `read_example` know only protobuf; `parse` is a TensorFlow graph function and imports it when called.
"""

import functools

ENCODED = "image/encoded"
HEIGHT = "image/height"
WIDTH = "image/width"
CHANNELS = "image/channels"
COLORSPACE = "image/colorspace"
FORMAT = "image/format"
FILENAME = "image/filename"
LABEL = "image/class/label"
SYNSET = "image/class/synset"
TEXT = "image/class/text"

PACKAGE = "pf_keras"  # of the messages' names

_KINDS = {ENCODED: "bytes_list", FILENAME: "bytes_list", LABEL: "int64_list"}  # of the keys that `parse` reads

NO_LABEL = -1  # what `parse` gives where a record carries no label; stored labels begin at 1


@functools.cache
def _descriptors():
    """How an Example is written, as protobuf describes its messages."""
    from google.protobuf import descriptor_pb2

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pf_keras_example.proto", package=PACKAGE, syntax="proto3")

    def message(name: str, *fields: tuple):
        kind = file.message_type.add(name=name)
        for number, (field_name, label, type_, type_name) in enumerate(fields, 1):
            kind.field.add(name=field_name, number=number, label=label, type=type_, type_name=type_name)
        return kind

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message("BytesList", ("value", many, field.TYPE_BYTES, None))
    message("FloatList", ("value", many, field.TYPE_FLOAT, None))
    message("Int64List", ("value", many, field.TYPE_INT64, None))
    feature = message(
        "Feature",
        ("bytes_list", one, field.TYPE_MESSAGE, f".{PACKAGE}.BytesList"),
        ("float_list", one, field.TYPE_MESSAGE, f".{PACKAGE}.FloatList"),
        ("int64_list", one, field.TYPE_MESSAGE, f".{PACKAGE}.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for part in feature.field:
        part.oneof_index = 0
    features = message("Features", ("feature", many, field.TYPE_MESSAGE, f".{PACKAGE}.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=field.TYPE_MESSAGE, type_name=f".{PACKAGE}.Feature")
    message("Example", ("features", one, field.TYPE_MESSAGE, f".{PACKAGE}.Features"))
    return file


@functools.cache
def messages() -> tuple[type, type]:
    """The protobuf classes `(Example, Feature)`: those of TensorFlow on the wire, without importing it."""
    from google.protobuf import descriptor_pool, message_factory

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_descriptors().SerializeToString())
    kinds = (pool.FindMessageTypeByName(f"{PACKAGE}.{name}") for name in ("Example", "Feature"))
    return tuple(message_factory.GetMessageClass(kind) for kind in kinds)


def make_example(
    *,
    encoded: bytes,
    height: int,
    width: int,
    channels: int,
    colorspace: str,
    format: str,
    filename: str,
    label: int | None = None,
    synset: str = "",
    text: str = "",
) -> bytes:
    """A serialized Example, with its keys in alphabetical order so that the same arguments give the same bytes.

    `height` and `width` are in pixels as stored, `format` is "JPEG" or "PNG", `colorspace` "RGB" or "Grayscale".
    `label` counts from 1; None leaves out the three keys of the class.
    """
    # The keys in front of the image and behind it go through protobuf, the image itself around it: this is where a
    # conversion spends its time, and protobuf would copy it twice.
    before = {CHANNELS: channels, COLORSPACE: colorspace}
    after = {FILENAME: filename, FORMAT: format, HEIGHT: height, WIDTH: width}
    if label is not None:
        before |= {LABEL: label, SYNSET: synset, TEXT: text}
    image = [encoded]
    for tag in (0x0A, 0x0A, 0x12):  # BytesList.value, Feature.bytes_list, the entry's value
        image.insert(0, _head(tag, image))
    key = ENCODED.encode()
    image = [_head(0x0A, [key]), key, *image]
    features = [_serialized(before), _head(0x0A, image), *image, _serialized(after)]
    return b"".join([_head(0x0A, features), *features])


def _head(tag: int, pieces: list[bytes]) -> bytes:
    """What stands in front of a field in the wire format: its tag, and its length as a base-128 number."""
    length = sum(map(len, pieces))
    head = [tag]
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length])


def _serialized(values: dict[str, int | str]) -> bytes:
    """The entries of a Features message, in the order of their keys."""
    features = messages()[0]().features
    for key, value in values.items():
        if isinstance(value, int):
            features.feature[key].int64_list.value.append(value)
        else:
            features.feature[key].bytes_list.value.append(value.encode())
    return features.SerializeToString(deterministic=True)


def decoded(message: type, serialized: bytes):
    """A message of a class of `messages`. Raises ValueError for bytes that are none."""
    from google.protobuf.message import DecodeError

    try:
        return message.FromString(serialized)
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example ({error})") from None


def read_example(serialized: bytes) -> dict[str, bytes | int]:
    """The first value of each key of a serialized Example. Raises ValueError for all that `parse` refuses."""
    example = decoded(messages()[0], serialized)
    values = {}
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        value = getattr(feature, kind).value if kind else ()
        if kind and kind != _KINDS.get(key, kind):
            raise ValueError(f"{key} has a {kind}, not a {_KINDS[key]}")
        if key == ENCODED and len(value) > 1:
            raise ValueError(f"{key} has {len(value)} values, not one")
        if len(value):
            values[key] = value[0]
    if ENCODED not in values:
        raise ValueError(f"{ENCODED} is not there")
    return values


def parse(serialized):
    """A graph function for `tf.data`: a scalar string tensor to `{"encoded", "label", "filename"}`, all scalars.

    `encoded` (string) is the image file's bytes, `label` (int64) as stored, counting from 1, or `NO_LABEL` where there
    is none, `filename` (string) empty where there is none. Files of the public converters are read too: of all the
    keys only `image/encoded` has to be there, with one value. Raises tf.errors.InvalidArgumentError where it is not, where
    one of the three has a value of another type, and for bytes that are no Example.
    """
    import tensorflow as tf

    # By protobuf's own reader, which this older operation has: tf.io.parse_single_example and
    # tf.io.parse_single_sequence_example have one that reads beyond the end of some damaged records and takes the process
    # along. An Example is a SequenceExample that has a context alone: its features have the same place in both.
    values = tf.raw_ops.ParseSingleSequenceExample(
        serialized=serialized,
        context_dense_keys=[ENCODED],
        context_dense_shapes=[()],
        context_dense_defaults=[tf.constant((), tf.string)],  # of no element: the key has to be there
        context_sparse_keys=[FILENAME, LABEL],
        context_sparse_types=[tf.string, tf.int64],
        feature_list_sparse_keys=[],
        feature_list_dense_keys=[],
        feature_list_dense_missing_assumed_empty=[],
        debug_name="record",
    )
    filename, label = values.context_sparse_values  # with as many elements as the record has
    return {
        "encoded": values.context_dense_values[0],
        "label": tf.concat([label, [NO_LABEL]], 0)[0],
        "filename": tf.concat([filename, [""]], 0)[0],
    }
