"""A killed build resumes and gives the same bytes as an uninterrupted one."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest


@pytest.fixture(scope="module")
def dataset(helpers, tmp_path_factory):
    """200 images, 5 of them corrupt, in 40 + 10 shards: the arguments, and the hashes of an uninterrupted build."""
    root = tmp_path_factory.mktemp("kill")
    for split, count in (("train", 160), ("val", 40)):
        for i in range(count):
            data = helpers.image(f"{split}{i}", size=(120, 90)) if i % 50 else b"no image"
            helpers.write(root / "in" / split / f"class{i % 4}" / f"{i}.jpg", data)
    arguments = ["--source=folder", f"--input={root / 'in'}", "--train_shards=40", "--validation_shards=10"]
    arguments += ["--skip_bad", "--resize_shorter=64"]
    helpers.build(*arguments, f"--output={root / 'unbroken'}")
    return arguments, helpers.hashes(root / "unbroken")


def start(helpers, arguments, output):
    line = [sys.executable, "-m", "tfrecords.build", *arguments, f"--output={output}", "--processes=2"]
    return subprocess.Popen(line, cwd=helpers.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def shards_noted(output):
    return len(list((output / ".build").glob("*-of-*.json")))


def kill_and_resume(helpers, dataset, tmp_path, kills):
    """Kill builds after a random number of shards. After a build that finished before its kill, start from nothing."""
    arguments, expected = dataset
    moments, interrupted, output = random.Random(0), 0, tmp_path / "out"
    for _ in range(kills):
        wanted = shards_noted(output) + moments.randint(0, 30)
        process = start(helpers, arguments, output)
        while process.poll() is None and shards_noted(output) < wanted:
            time.sleep(0.001)
        interrupted += process.poll() is None
        os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        finished = process.returncode == 0
        for file in output.glob("*-of-*"):  # a shard with its final name is whole
            assert hashlib.sha256(file.read_bytes()).hexdigest() == expected[file.name]
        if finished:
            assert helpers.hashes(output) == expected
            for file in output.iterdir():
                file.unlink()
    assert start(helpers, arguments, output).wait(120) == 0
    assert helpers.hashes(output) == expected
    assert interrupted >= kills // 2


def test_resumes_after_four_kills_at_random_moments(helpers, dataset, tmp_path):
    kill_and_resume(helpers, dataset, tmp_path, 4)


@pytest.mark.slow
def test_resumes_after_twenty_kills_at_random_moments(helpers, dataset, tmp_path):
    kill_and_resume(helpers, dataset, tmp_path, 20)


def test_only_missing_and_damaged_shards_are_made_again(helpers, dataset, tmp_path):
    arguments, expected = dataset
    helpers.build(*arguments, f"--output={tmp_path}")
    (tmp_path / "train-00003-of-00040").unlink()
    damaged = tmp_path / "train-00005-of-00040"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    (tmp_path / "validation-00001-of-00010").write_bytes(b"")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-of-*")}
    helpers.build(*arguments, f"--output={tmp_path}")
    assert helpers.hashes(tmp_path) == expected
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*-of-*")}
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"train-00003-of-00040", "train-00005-of-00040", "validation-00001-of-00010"}


def test_resuming_keeps_the_shards_of_a_killed_build(helpers, dataset, tmp_path):
    arguments, expected = dataset
    process = start(helpers, arguments, tmp_path)
    while len(list((tmp_path / ".build").glob("*-of-*.json"))) < 3:
        time.sleep(0.005)
    process.kill()
    process.wait()
    time.sleep(0.5)  # its workers end a moment later
    noted = [path.name.removesuffix(".json") for path in (tmp_path / ".build").glob("*-of-*.json")]
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in noted}
    assert 3 <= len(before) < 50
    helpers.build(*arguments, f"--output={tmp_path}")
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in noted} == before
    assert helpers.hashes(tmp_path) == expected


def test_resuming_with_other_settings_is_an_error(helpers, dataset, tmp_path):
    arguments, _ = dataset
    process = start(helpers, arguments, tmp_path)
    while not list(tmp_path.glob("train-*")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = helpers.command("build", *arguments, f"--output={tmp_path}", "--seed=5")
    helpers.fails(done, "seed=0, not 5")


def test_second_build_in_the_same_directory_is_refused(helpers, dataset, tmp_path):
    arguments, expected = dataset
    first = start(helpers, arguments, tmp_path)
    while not (tmp_path / ".build" / "settings.json").exists():
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it keeps its lock
    helpers.fails(helpers.command("build", *arguments, f"--output={tmp_path}"), "Another build is writing")
    first.send_signal(signal.SIGCONT)
    assert first.wait(120) == 0
    assert helpers.hashes(tmp_path) == expected


def test_workers_end_when_the_build_is_killed(helpers, dataset, tmp_path):
    arguments, _ = dataset
    process = start(helpers, arguments, tmp_path)
    while not list(tmp_path.glob("train-*")):
        time.sleep(0.01)
    children = _descendants(process.pid)
    assert children
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{child}") for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(_is_build(child) for child in children)


def _descendants(pid):
    tasks = f"/proc/{pid}/task/{pid}/children"
    return [int(child) for child in open(tasks).read().split()] if os.path.exists(tasks) else []


def _is_build(pid):
    try:
        return b"spawn_main" in open(f"/proc/{pid}/cmdline", "rb").read()
    except OSError:
        return False


def test_result_does_not_depend_on_the_number_of_workers(helpers, dataset, tmp_path):
    arguments, expected = dataset
    done = helpers.command("build", *arguments, f"--output={tmp_path}", "--processes=1")
    assert done.returncode == 0, done.stderr
    assert helpers.hashes(tmp_path) == expected
    assert json.loads((tmp_path / "manifest.json").read_text())["odd"]["bad_skipped"] == 5
