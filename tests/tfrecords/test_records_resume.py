"""A build killed at any moment and started again gives the bytes of one that was never stopped."""

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
def set_of_images(helpers, tmp_path_factory):
    """200 images with some bad ones in 40 + 10 shards, and the hashes of an unbroken build of it."""
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


def kill_and_go_on(helpers, set_of_images, tmp_path, kills):
    """Each kill comes when a random number of shards more is done; a build that ended before begins anew."""
    arguments, expected = set_of_images
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
        for file in output.glob("*-of-*"):  # whatever has its final name is whole
            assert hashlib.sha256(file.read_bytes()).hexdigest() == expected[file.name]
        if finished:  # what follows starts from nothing again
            assert helpers.hashes(output) == expected
            for file in output.iterdir():
                file.unlink()
    assert start(helpers, arguments, output).wait(120) == 0
    assert helpers.hashes(output) == expected
    assert interrupted >= kills // 2


def test_killed_at_four_random_moments(helpers, set_of_images, tmp_path):
    kill_and_go_on(helpers, set_of_images, tmp_path, 4)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(helpers, set_of_images, tmp_path):
    kill_and_go_on(helpers, set_of_images, tmp_path, 20)


def test_only_what_is_missing_or_damaged_is_made_again(helpers, set_of_images, tmp_path):
    arguments, expected = set_of_images
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


def test_finished_shards_of_a_killed_build_are_kept(helpers, set_of_images, tmp_path):
    arguments, expected = set_of_images
    process = start(helpers, arguments, tmp_path)
    while len(list((tmp_path / ".build").glob("*-of-*.json"))) < 3:
        time.sleep(0.005)
    process.kill()
    process.wait()
    time.sleep(0.5)  # until its workers have ended too
    noted = [path.name.removesuffix(".json") for path in (tmp_path / ".build").glob("*-of-*.json")]
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in noted}
    assert 3 <= len(before) < 50
    helpers.build(*arguments, f"--output={tmp_path}")
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in noted} == before
    assert helpers.hashes(tmp_path) == expected


def test_an_unfinished_build_of_other_settings_is_refused(helpers, set_of_images, tmp_path):
    arguments, _ = set_of_images
    process = start(helpers, arguments, tmp_path)
    while not list(tmp_path.glob("train-*")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = helpers.command("build", *arguments, f"--output={tmp_path}", "--seed=5")
    helpers.fails(done, "seed (there 0, now 5)")


def test_two_builds_do_not_write_into_one_directory(helpers, set_of_images, tmp_path):
    arguments, expected = set_of_images
    first = start(helpers, arguments, tmp_path)
    while not (tmp_path / ".build" / "settings.json").exists():
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # it keeps its lock
    helpers.fails(helpers.command("build", *arguments, f"--output={tmp_path}"), "another build is writing")
    first.send_signal(signal.SIGCONT)
    assert first.wait(120) == 0
    assert helpers.hashes(tmp_path) == expected


def test_workers_end_with_a_killed_build(helpers, set_of_images, tmp_path):
    arguments, _ = set_of_images
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


def test_manifest_does_not_depend_on_the_processes(helpers, set_of_images, tmp_path):
    arguments, expected = set_of_images
    done = helpers.command("build", *arguments, f"--output={tmp_path}", "--processes=1")
    assert done.returncode == 0, done.stderr
    assert helpers.hashes(tmp_path) == expected
    assert json.loads((tmp_path / "manifest.json").read_text())["odd"]["bad_skipped"] == 5
