"""A run keeps how it read its images."""

import json
from pathlib import Path

import pytest

from pf_keras.config import Config
from pf_keras.data.reader import ReadOptions
from pf_keras.errors import UserError
from pf_keras.training.identity import RunIdentity, check_same_run, find_run
from pf_keras.training.workdir import Workdir

OLD = Path(__file__).parents[1] / "old_runs" / "version_0.1"


def stored(path, content):
    """The workdir of a run with this `config.json`."""
    (path / "config.json").write_text(json.dumps(content))
    return Workdir(path)


def test_a_run_of_version_0_1_ignores_orientation_and_drops_transparency():
    for run in ("pretrain", "finetune"):
        assert ReadOptions.from_config(find_run(Workdir(OLD / run)).config.data) == ReadOptions(exif=False, background="drop")


def test_a_new_run_keeps_what_its_config_says(tmp_path):
    for data in ({}, {"data.exif": "false"}, {"data.background": "black", "data.max_pixels": "5"}):
        run = RunIdentity("pretrain", Config().override(data))
        assert find_run(stored(tmp_path, run.to_dict())).config == run.config
    assert ReadOptions.from_config(Config().data) == ReadOptions()


def test_resuming_an_old_run_as_a_new_one_is_named_and_a_higher_limit_is_not(tmp_path):
    content = RunIdentity("pretrain", Config()).to_dict()
    for name in ("exif", "background", "range16", "max_pixels"):
        del content["config"]["data"][name]
    workdir = stored(tmp_path, content)
    with pytest.raises(UserError, match=r"\(data.exif: False -> True; data.background: drop -> white\)"):
        check_same_run(workdir, RunIdentity("pretrain", Config().override({"data.max_pixels": "100"})))
    same = Config().override({"data.exif": "false", "data.background": "drop", "data.max_pixels": "100"})
    assert check_same_run(workdir, RunIdentity("pretrain", same)).config.data.exif is False
