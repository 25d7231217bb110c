"""Apache Beam makes the same shards as the process pool. Needs requirements-beam.txt."""

import importlib.util

import pytest

HAS_BEAM = importlib.util.find_spec("apache_beam") is not None


@pytest.mark.skipif(not HAS_BEAM, reason="apache_beam is not installed: pip install -r requirements-beam.txt")
def test_direct_runner_gives_the_shards_of_the_process_pool(helpers, archives, built, tmp_path):
    arguments = ("--source=imagenet", f"--input={archives}", "--train_shards=3", "--validation_shards=2")
    for _ in range(2):  # the second time finds everything done
        done = helpers.command("build", *arguments, f"--output={tmp_path}", "--runner=DirectRunner")
        assert done.returncode == 0, done.stderr
        assert helpers.hashes(tmp_path) == helpers.hashes(built)


@pytest.mark.skipif(HAS_BEAM, reason="apache_beam is installed")
def test_without_beam_the_error_says_what_to_install(helpers, archives, tmp_path):
    arguments = ("--source=imagenet", f"--input={archives}", f"--output={tmp_path}")
    helpers.fails(helpers.command("build", *arguments, "--runner=DirectRunner"), "requirements-beam.txt")
