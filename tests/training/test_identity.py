"""A run keeps how it read its images."""

import json
from pathlib import Path

from pf_keras.config import Config
from pf_keras.data.reader import ReadOptions
from pf_keras.training.identity import RunIdentity

OLD = Path(__file__).parents[1] / "old_runs" / "version_0.1"


def test_a_run_of_version_0_1_ignores_orientation_and_drops_transparency():
    for run in ("pretrain", "finetune"):
        old = RunIdentity.from_dict(json.loads((OLD / run / "config.json").read_text()))
        assert ReadOptions.from_config(old.config.data) == ReadOptions(exif=False, background="drop")


def test_a_new_run_keeps_what_its_config_says():
    for data in ({}, {"data.exif": "false"}, {"data.background": "black", "data.max_pixels": "5"}):
        run = RunIdentity("pretrain", Config().override(data))
        assert RunIdentity.from_dict(json.loads(json.dumps(run.to_dict()))).config == run.config
    assert ReadOptions.from_config(Config().data) == ReadOptions()


def test_resuming_an_old_run_as_a_new_one_is_named_and_a_higher_limit_is_not():
    content = RunIdentity("pretrain", Config()).to_dict()
    for name in ("exif", "background", "range16", "max_pixels"):
        del content["config"]["data"][name]
    old = RunIdentity.from_dict(content)
    new = RunIdentity("pretrain", Config().override({"data.max_pixels": "100"}))
    assert old.differences(new) == ["data.exif: False -> True", "data.background: drop -> white"]
    same = Config().override({"data.exif": "false", "data.background": "drop", "data.max_pixels": "100"})
    assert old.differences(RunIdentity("pretrain", same)) == []
