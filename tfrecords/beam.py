"""Makes the shards with Apache Beam: on this machine, or on Flink, Spark or Dataflow."""

import json
from collections.abc import Iterable, Iterator, Sequence

from pf_keras import filesystem as fs
from pf_keras.errors import UserError
from tfrecords import shards


def run(output: str, tasks: Iterable[dict], arguments: Sequence[str]) -> Iterator[dict]:
    """Make shards in a Beam pipeline.

    Each task is written beside the shards, where the workers of a cluster find it. Only its path enters the pipeline.

    Args:
        output: the directory of the shards.
        tasks: of `shards.make_shard`.
        arguments: Beam's options.

    Yields:
        The note of each shard, once the pipeline has finished.

    Raises:
        UserError: Beam is not installed, or the pipeline fails.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError(
            "--runner needs Apache Beam. Install it with pip install -r requirements-beam.txt, or leave out --runner."
        ) from None
    paths = {}
    for task in tasks:
        path = fs.join(output, shards.WORK, task["file"] + ".task.json")
        fs.write_whole(path, json.dumps(task).encode(), path + ".partial")
        paths[task["file"]] = path
    try:
        with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            _ = pipeline | beam.Create(list(paths.values()), reshuffle=True) | beam.Map(_make)
    except Exception as error:  # each runner raises its own
        raise UserError(f"The Beam pipeline failed: {error}. Run the same command again, finished shards are kept.") from error
    for file in paths:
        note = fs.read_json(shards.note_path(output, file))
        note.pop("made_of", None)  # not a part of the manifest
        yield note


def _make(path: str) -> None:
    shards.make_shard(fs.read_json(path))
