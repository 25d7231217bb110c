"""Subsets as properties, published lists, and the command that writes them."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.errors import UserError
from tfrecords.selection import as_line, match_list, read_list, stratified_subset


def names_of(count):
    return [f"image_{i}.JPEG" for i in range(count)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.floats(0.001, 1), st.integers(0, 9), st.randoms())
def test_subsets_are_stratified_nested_and_independent_of_the_order(labels, fraction, seed, order):
    names = names_of(len(labels))
    try:
        small = stratified_subset(names, labels, fraction, seed)
    except UserError as error:
        assert any(round(fraction * labels.count(label)) == 0 for label in labels)
        advised = float(re.search(r"give (\S+), for one", str(error))[1])
        label = int(re.search(r"of class (\d+)", str(error))[1])
        alone = [i for i in range(len(labels)) if labels[i] == label]
        assert len(stratified_subset([names[i] for i in alone], [label] * len(alone), advised, seed)) >= 1
        return
    for label in set(labels):
        assert sum(labels[i] == label for i in small) == round(fraction * labels.count(label))
    assert small == sorted(set(small))
    larger = stratified_subset(names, labels, min(1, fraction * 1.5), seed)
    assert set(small) <= set(larger)
    mixed = list(range(len(labels)))
    order.shuffle(mixed)
    again = stratified_subset([names[i] for i in mixed], [labels[i] for i in mixed], fraction, seed)
    assert {mixed[i] for i in again} == set(small)


def test_a_list_of_any_names_is_read_back_whole(tmp_path):
    names = ["#1 dogs/a.jpg", "cats/#a.jpg", "#", " cats/b.jpg"]
    (tmp_path / "list.txt").write_text("".join(as_line(name) + "\n" for name in names))
    assert match_list(read_list(str(tmp_path / "list.txt")), names) == [0, 1, 2, 3]


def test_a_fixed_choice_so_that_every_version_draws_the_same():
    assert stratified_subset(names_of(40), [i % 2 for i in range(40)], 0.1, 0) == EXPECTED
    assert stratified_subset(names_of(40), [i % 2 for i in range(40)], 0.1, 1) != EXPECTED


EXPECTED = sorted(
    index
    for parity in (0, 1)
    for index in sorted(
        range(parity, 40, 2),
        key=lambda i: __import__("hashlib").sha256(f"0/image_{i}.JPEG".encode()).hexdigest(),
    )[:2]
)


def test_a_larger_subset_contains_the_published_list():
    names, labels = names_of(100), [i % 5 for i in range(100)]
    published = [f"image_{i}.JPEG" for i in range(0, 10)]
    subset = {names[i] for i in stratified_subset(names, labels, 0.2, 3, published)}
    assert set(published) < subset and len(subset) == 20


@pytest.mark.parametrize("fraction", [0, -1, 1.5, math.nan])
def test_impossible_fractions(fraction):
    with pytest.raises(UserError, match="expected a fraction"):
        stratified_subset(["a"], [1], fraction, 0)


def test_unknown_names_to_include_and_empty_classes():
    with pytest.raises(UserError, match="1 others: 'x'"):
        stratified_subset(["a"], [1], 1, 0, ["x"])
    with pytest.raises(UserError, match="class 7"):
        stratified_subset(names_of(30), [7] + [1] * 29, 0.1, 0)


def test_read_list_and_match_list(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeff# published\n\nn01/a.JPEG \r\n b b.JPEG\n".encode())
    assert read_list(str(path)) == ["n01/a.JPEG", "b b.JPEG"]
    names = ["a.JPEG", "train/n02/b b.JPEG", "x/c.JPEG", "y/c.JPEG"]
    assert match_list(read_list(str(path)), names) == [0, 1]
    assert match_list(["train/y/c.JPEG", "y/c.JPEG"], names) == [3]
    with pytest.raises(UserError, match="2 of 3 that are not there, the first 'q.JPEG'"):
        match_list(["q.JPEG", "a.JPEG", "z/y/cc.JPEG"], names)
    with pytest.raises(UserError, match="which fits 2"):
        match_list(["c.JPEG"], names)
    path.write_text("\n# nothing\n")
    with pytest.raises(UserError, match="received none"):
        read_list(str(path))
    with pytest.raises(UserError, match="found none"):
        read_list(str(tmp_path / "absent"))


@pytest.fixture(scope="module")
def labelled(helpers, tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    for label in ("cat", "dog"):
        for i in range(30):
            helpers.write(root / "in" / "train" / label / f"{label}{i}.jpg", helpers.image(f"{label}{i}", size=(9, 9)))
    arguments = ("--source=folder", f"--input={root / 'in'}", "--train_shards=3")
    helpers.build(*arguments, f"--output={root / 'out'}")
    return root / "out"


def test_command_writes_nested_lists(helpers, labelled, tmp_path):
    published = helpers.write(tmp_path / "published.txt", b"dog/dog1.jpg\ntrain/dog/dog2.jpg\ncat7.jpg\n")
    arguments = ("--fraction=0.1,0.2", "--seed=4", f"--output={tmp_path}")
    done = helpers.command("subsets", labelled, *arguments)
    assert done.returncode == 0, done.stderr
    ten = (tmp_path / "train_10pct_seed4.txt").read_text().splitlines()
    twenty = (tmp_path / "train_20pct_seed4.txt").read_text().splitlines()
    assert (len(ten), len(twenty)) == (6, 12) and set(ten) < set(twenty)
    assert sum(name.startswith("cat/") for name in ten) == 3
    done = helpers.command("subsets", labelled, *arguments, f"--include={published}")
    assert "12 of 60 images, 3 of the 3 in" in done.stdout
    with_list = (tmp_path / "train_20pct_seed4_with_list.txt").read_text().splitlines()
    assert {"dog/dog1.jpg", "dog/dog2.jpg", "cat/cat7.jpg"} < set(with_list) and len(with_list) == 12


def test_command_errors(helpers, labelled, tmp_path):
    helpers.fails(helpers.command("subsets", labelled, "--fraction=0.001"), "of class 1")
    helpers.fails(helpers.command("subsets", labelled, "--fraction=ten"), "'ten'")
    wrong = helpers.write(tmp_path / "wrong.txt", b"n.jpg\nm.jpg\n")
    done = helpers.command("subsets", labelled, "--fraction=0.1", f"--include={wrong}")
    helpers.fails(done, "2 of 2 that are not there", "'n.jpg'")
    helpers.fails(helpers.command("subsets", tmp_path, "--fraction=0.1"), "found none")
