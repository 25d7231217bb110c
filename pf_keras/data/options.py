"""How tf.data runs the datasets of this project."""


def as_written(dataset):
    """The dataset in its order, with as much parallelism as it names itself.

    tf.data's tuning would find no better, and its thread may hold up the end of an iterator for as long as that has
    lived: a wake-up is lost now and then.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    return dataset.with_options(options)
