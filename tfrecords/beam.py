"""The same shards by Apache Beam: on this machine, or on Flink, Spark or Dataflow by Beam's own options."""

import json
from collections.abc import Iterable, Iterator, Sequence

from tfrecords import filesystem as fs
from tfrecords import shards
from tfrecords.errors import UserError


def run(output: str, tasks: Iterable[dict], arguments: Sequence[str]) -> Iterator[dict]:
    """Makes the shards of `tasks` in a Beam pipeline and yields their notes once it has finished.

    Each task is written beside the shards and only its path enters the pipeline, so that a cluster's workers find it
    and memory here stays flat. `arguments` are Beam's. Raises UserError without Beam and where the pipeline fails.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError(
            "expected apache_beam for --runner, found none; pip install -r requirements-beam.txt, or leave out "
            "--runner for a process pool"
        ) from None
    paths, files = [], []
    for task in tasks:
        path = fs.join(output, shards.WORK, task["file"] + ".task.json")
        fs.write_whole(path, json.dumps(task).encode(), path + ".partial")
        paths.append(path)
        files.append(task["file"])
    try:
        with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            _ = pipeline | beam.Create(paths, reshuffle=True) | beam.Map(_make)
    except Exception as error:  # each runner has its own
        raise UserError(f"the Beam pipeline failed, finished shards are kept: {error}") from error
    for file in files:
        note = fs.read_json(shards.note_path(output, file))
        note.pop("made_of", None)  # `make_shard` returns it without, and so has the manifest it
        yield note


def _make(path: str) -> None:
    shards.make_shard(fs.read_json(path))
