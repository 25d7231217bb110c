"""Naming the image at which a pipeline failed: errors inside tf.data do not say which example they met."""

import contextlib

from pf_keras.errors import UserError


@contextlib.contextmanager
def naming_bad_images(source):
    """Turn a pipeline's failure into a UserError that names the image, found by decoding the source anew."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.DataLossError) as error:
        for split in (source.train, source.validation):
            for name, reason in bad_images(split):
                raise UserError(
                    f"expected every image to be readable, received {name}: {reason}: repair or remove it"
                ) from error
        raise


def bad_images(split):
    """Yield `(name, reason)` of each example of a split that cannot be read and decoded, in order."""
    import tensorflow as tf

    from pf_keras.data.decode import centre_window, decode_and_crop

    load = split.loader()

    @tf.function
    def attempt(key):
        return decode_and_crop(load(key)[0], centre_window(1.0), 8)

    for position, key in enumerate(split.keys(shuffle=False)):
        try:
            attempt(key)
        except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
            yield split.names[position], " ".join(error.message.split())[:200]
