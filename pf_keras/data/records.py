"""Shards of records: `tfrecord:DIR` and `tfds:NAME`."""

from pf_keras.errors import UserError


def open_tfrecords(place, config):
    raise NotImplementedError


def open_tfds(place, config):
    raise NotImplementedError
