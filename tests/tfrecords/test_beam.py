"""Apache Beam makes the same shards as the process pool."""

import importlib.util
import sys
import types

import pytest

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None


@pytest.mark.skipif(not HAS_BEAM, reason="apache_beam is not installed: pip install -r requirements-beam.txt")
def test_direct_runner_makes_the_shards_of_the_process_pool(helpers, archives, built, tmp_path):
    arguments = ("--source=imagenet", f"--input={archives}", "--train_shards=3", "--validation_shards=2")
    for _ in range(2):  # the second build finds everything done
        done = helpers.command("build", *arguments, f"--output={tmp_path}", "--runner=DirectRunner")
        assert done.returncode == 0, done.stderr
        assert helpers.hashes(tmp_path) == helpers.hashes(built)


@pytest.mark.skipif(HAS_BEAM, reason="apache_beam is installed")
def test_missing_beam_is_an_error_that_says_what_to_install(helpers, archives, tmp_path):
    arguments = ("--source=imagenet", f"--input={archives}", f"--output={tmp_path}")
    helpers.fails(helpers.command("build", *arguments, "--runner=DirectRunner"), "requirements-beam.txt")


def test_beam_pipeline_makes_the_manifest_of_the_process_pool(helpers, archives, built, tmp_path, monkeypatch):
    """With a stand-in for Beam that runs each step at once. The test above uses Beam itself if it is installed."""
    from tfrecords import build

    class Pipeline:
        def __init__(self, options):
            self.items = None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def __or__(self, step):
            self.items = step(self.items)
            return self

    beam = types.ModuleType("apache_beam")
    beam.Pipeline = Pipeline
    beam.Create = lambda items, reshuffle: lambda _: list(items)
    beam.Map = lambda function: lambda items: [function(item) for item in items]
    options = types.ModuleType("apache_beam.options.pipeline_options")
    options.PipelineOptions = list
    for name, module in (("apache_beam", beam), ("apache_beam.options", beam), (options.__name__, options)):
        monkeypatch.setitem(sys.modules, name, module)
    arguments = ["--source=imagenet", f"--input={archives}", "--train_shards=3", "--validation_shards=2"]
    assert build.main([*arguments, f"--output={tmp_path}", "--runner=DirectRunner"]) == 0
    assert helpers.hashes(tmp_path) == helpers.hashes(built)
