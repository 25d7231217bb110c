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

NO_LABEL = -1  # what `parse` gives where a record carries no label; stored labels begin at 1


@functools.cache
def messages() -> tuple[type, type]:
    """The protobuf classes `(Example, Feature)`: those of TensorFlow on the wire, without importing it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pf_keras_example.proto", package="pf_keras", syntax="proto3")

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
        ("bytes_list", one, field.TYPE_MESSAGE, ".pf_keras.BytesList"),
        ("float_list", one, field.TYPE_MESSAGE, ".pf_keras.FloatList"),
        ("int64_list", one, field.TYPE_MESSAGE, ".pf_keras.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for part in feature.field:
        part.oneof_index = 0
    features = message("Features", ("feature", many, field.TYPE_MESSAGE, ".pf_keras.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=field.TYPE_MESSAGE, type_name=".pf_keras.Feature")
    message("Example", ("features", one, field.TYPE_MESSAGE, ".pf_keras.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    kinds = (pool.FindMessageTypeByName(f"pf_keras.{name}") for name in ("Example", "Feature"))
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


def read_example(serialized: bytes) -> dict[str, bytes | int]:
    """The first value of each key of a serialized Example. Raises ValueError for bytes that are none."""
    from google.protobuf.message import DecodeError

    try:
        example = messages()[0].FromString(serialized)
    except DecodeError as error:
        raise ValueError(f"not a tf.train.Example ({error})") from None
    values = {}
    for key, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        value = getattr(feature, kind).value if kind else ()
        if len(value):
            values[key] = value[0]
    return values


def parse(serialized):
    """A graph function for `tf.data`: a scalar string tensor to `{"encoded", "label", "filename"}`, all scalars.

    `encoded` (string) is the image file's bytes, `label` (int64) as stored, counting from 1, or `NO_LABEL` where there
    is none, `filename` (string) empty where there is none. Files of the public converters are read too: of all the
    keys only `image/encoded` has to be there. Raises tf.errors.InvalidArgumentError where it is not.
    """
    import numpy as np
    import tensorflow as tf

    def read(record):
        values = read_example(record if isinstance(record, bytes) else record.item())
        encoded, label, filename = values.get(ENCODED), values.get(LABEL, NO_LABEL), values.get(FILENAME, b"")
        if (type(encoded), type(label), type(filename)) != (bytes, int, bytes):
            keys = ", ".join(f"{key!a} ({type(value).__name__})" for key, value in sorted(values.items()))
            raise ValueError(f"expected a record with {ENCODED} as bytes, received {keys or 'no keys'}")
        return encoded, np.int64(label), filename

    # Not by tf.io.parse_single_example, which reads beyond the end of some damaged records and takes the process along.
    kinds = (tf.string, tf.int64, tf.string)
    values = [tf.ensure_shape(value, ()) for value in tf.numpy_function(read, [serialized], kinds, stateful=False)]
    return dict(zip(("encoded", "label", "filename"), values, strict=True))
