"""The benchmarks: turns, ratios, aims, flags, and the steps that they time."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import formats, photographs
from experiments.benchmark.measuring import Row, ratio, spread, take_turns, write


@pytest.fixture
def no_collection(monkeypatch):
    """Skip garbage collection, which takes seconds a turn after other tests."""
    monkeypatch.setattr("experiments.benchmark.measuring.gc.collect", lambda: None)


def test_every_function_runs_once_per_round_in_alternating_order(no_collection):
    calls = []
    works = {name: lambda name=name: calls.append(name) or float(len(calls)) for name in ("a", "b", "c")}
    seconds = take_turns(works, rounds=4, warm_up=1)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 4, "c": 4}
    rounds = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert set(rounds) == {("a", "b", "c"), ("c", "b", "a")} and len(rounds) == 5
    assert all(a != b for a, b in zip(rounds, rounds[1:], strict=False))


def test_returned_seconds_replace_the_measured_time(no_collection):
    seconds = take_turns({"a": lambda: 0.25, "b": lambda: None}, rounds=3, warm_up=0)
    assert seconds["a"] == [0.25] * 3 and all(0 <= t < 0.2 for t in seconds["b"])


def test_a_ratio_is_the_median_over_the_rounds():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 2, 9), rng.uniform(1, 2, 9)
    seconds = {"a": a.tolist(), "b": b.tolist()}
    assert ratio(seconds, "a", "b") == pytest.approx(np.median(a / b))
    assert spread(seconds, "a", "b") == f"{(a / b).min():.3g} to {(a / b).max():.3g} in 9 rounds"


def test_the_report_says_which_aims_are_reached(tmp_path, capsys):
    rows = [Row("high", 0.9, aim=0.85, high=True), Row("low", 0.9, aim=0.85), Row("free", 0.9)]
    assert [row.reached for row in rows] == [True, False, None]
    write("demo", rows, tmp_path / "deep" / "demo.json")
    out = capsys.readouterr().out
    assert "≥ 0.85: yes" in out and "≤ 0.85: NO" in out
    found = json.loads((tmp_path / "deep" / "demo.json").read_text())
    assert [row["reached"] for row in found["rows"]] == [True, False, None] and found["machine"]["cores"] >= 1


def test_only_the_guard_exits_with_1_for_a_missed_aim(monkeypatch, tmp_path):
    from experiments.benchmark import input, start, step

    asked = []

    def rows_of(name, *rows):
        def run(options):
            asked.append((name, *(vars(options).get(flag) for flag in ("size", "batch", "quick"))))
            return list(rows)

        return run

    free, kept, missed = Row("free", 9.0), Row("kept", 0.5, aim=1.0), Row("slow", 2.0, aim=1.0)
    for module, rows in ((input, (free, kept)), (step, (kept,)), (start, (missed,))):
        monkeypatch.setattr(module, "run", rows_of(module.__name__.rpartition(".")[2], *rows))
    output = f"--output={tmp_path / 'found.json'}"
    assert benchmark.main(["guard", output]) == 1
    assert asked == [(name, "small", 128, True) for name in ("input", "step", "start")]
    found = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["reached"] for row in found] == [True, True, False]  # the guard leaves out rows without an aim
    assert benchmark.main(["start", output]) == 0
    monkeypatch.setattr(start, "run", rows_of("start", kept))
    assert benchmark.main(["guard", output]) == 0


def test_a_missing_clone_or_missing_images_is_one_error_line(tmp_path, capsys):
    for flags, word in ((["peer", f"--mae={tmp_path}"], "clone"), (["input", f"--images={tmp_path}"], "--images")):
        assert benchmark.main(flags) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: --") and word in last


def test_a_flag_of_another_benchmark_is_an_error(capsys):
    for flags in (["input", "--size=paper"], ["guard", "--quick"], ["start", "--batch=4"], ["step", "--images=here"]):
        with pytest.raises(SystemExit) as ended:
            benchmark.main(flags)
        assert ended.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err, flags


def test_photographs_have_about_the_size_of_imagenets(tmp_path):
    photographs.collect("", tmp_path / "cut", 12)
    sizes = [path.stat().st_size for path in (tmp_path / "cut").rglob("*.jpg")]
    assert len(sizes) == 12 and 70e3 < np.mean(sizes) < 160e3
    photographs.collect(str(tmp_path / "cut"), tmp_path / "linked", 30)
    links = list((tmp_path / "linked").rglob("*.jpg"))
    assert len(links) == 30 and len({path.resolve() for path in links}) == 12


def test_the_folder_of_formats_has_a_quarter_of_each(tmp_path):
    formats.mixed_folder(tmp_path / "train" / "any", 8)
    images = [Image.open(path) for path in sorted((tmp_path / "train" / "any").iterdir())]
    assert [image.format for image in images] == ["WEBP", "TIFF", "JPEG", "JPEG"] * 2
    assert [image.getexif().get(0x0112, 1) for image in images] == [1, 1, 6, 1] * 2
    assert {image.size for image in images} == {photographs.SIDES}


def test_a_bare_loop_trains_the_model():
    from experiments.benchmark.models import bare_loop, compiled_pretrainer, random_batch
    from pf_keras.training.devices import Devices
    from tests.tiny import tiny_config

    config, devices = tiny_config(), Devices("cpu", 1)
    model = compiled_pretrainer(config, devices)
    before = [v.numpy() for v in model.trainable_variables]
    assert bare_loop(model, devices, random_batch(config, 4), 3)() > 0
    assert int(model.optimizer.iterations) == 3
    assert any((v.numpy() != old).any() for v, old in zip(model.trainable_variables, before, strict=True))


def test_the_documentation_has_the_command_of_every_benchmark():
    pages = (Path(benchmark.__file__).parents[2] / "docs" / page for page in ("performance.md", "gpu.md"))
    text = "".join(page.read_text() for page in pages)
    for name in benchmark.BENCHMARKS:
        assert f"python -m experiments.benchmark {name}" in text, name
