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
    keys only `image/encoded` has to be there. Raises tf.errors.InvalidArgumentError where it is not, where one of the
    three has a value of another type, and tf.errors.DataLossError for bytes that are no Example.
    """
    import tensorflow as tf
    from google.protobuf import descriptor_pb2

    source = b"bytes://" + descriptor_pb2.FileDescriptorSet(file=[_descriptors()]).SerializeToString()

    # By protobuf's own reader, a message at a time: tf.io.parse_single_example is faster, but reads beyond the end of
    # some damaged records and takes the process along.
    def fields(message, data, **types):
        """How often each field occurs, and its values, in the serialized messages `data`."""
        sizes, values = tf.io.decode_proto(
            data, f"{PACKAGE}.{message}", list(types), list(types.values()), descriptor_source=source
        )
        return sizes, *values

    _, features = fields("Example", serialized, features=tf.string)
    _, entries = fields("Features", features[0], feature=tf.string)
    _, keys, values = fields("Features.FeatureEntry", entries, key=tf.string, value=tf.string)
    # Of entries with the same key the last one counts, as in any map; an empty feature stands for none.
    matches = tf.cast(keys[:, 0] == [[ENCODED], [FILENAME], [LABEL]], tf.int32)  # (3, entries)
    places = tf.reduce_max(matches * tf.range(1, tf.shape(keys)[0] + 1), axis=1)
    wanted = tf.gather(tf.concat([[""], values[:, 0]], 0), places)
    kinds = {"bytes_list": tf.string, "int64_list": tf.string, "float_list": tf.string}
    sizes, texts, numbers, _ = fields("Feature", wanted, **kinds)
    counts, texts = fields("BytesList", texts[:2, 0], value=tf.string)
    labels, numbers = fields("Int64List", numbers[2, 0], value=tf.int64)

    others = tf.reduce_sum(sizes * [[0, 1, 1], [0, 1, 1], [1, 0, 1]])
    right = tf.logical_and(counts[0, 0] > 0, others == 0)
    check = tf.debugging.Assert(right, [f"expected a record with {ENCODED} as bytes, received the keys", keys[:, 0]])
    with tf.control_dependencies([check]):
        return {
            "encoded": texts[0, 0],
            "label": tf.where(labels[0] > 0, numbers[0], NO_LABEL),
            "filename": texts[1, 0],  # what fills the place of none is empty
        }
