"""Label subsets, hold-outs and published lists."""

import hashlib
import math
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pf_keras.data.images import Images
from pf_keras.data.selection import (
    as_line,
    draw_per_class,
    hold_out,
    hold_out_labelled,
    match_list,
    read_list,
    stratified_subset,
)
from pf_keras.errors import UserError


def names_of(count):
    return [f"image_{i}.JPEG" for i in range(count)]


def split_of(labels):
    return Images(names_of(len(labels)), labels, [b""] * len(labels))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.floats(0.001, 1), st.integers(0, 9), st.randoms())
def test_subsets_are_stratified_nested_and_independent_of_the_order(labels, fraction, seed, order):
    names = names_of(len(labels))
    small = stratified_subset(names, labels, fraction, seed)
    for label in set(labels):
        assert sum(labels[i] == label for i in small) == max(1, round(fraction * labels.count(label)))
    assert small == sorted(set(small))
    larger = stratified_subset(names, labels, min(1, fraction * 1.5), seed)
    assert set(small) <= set(larger)
    mixed = list(range(len(labels)))
    order.shuffle(mixed)
    again = stratified_subset([names[i] for i in mixed], [labels[i] for i in mixed], fraction, seed)
    assert {mixed[i] for i in again} == set(small)


def test_every_version_draws_the_same_subset():
    expected = sorted(
        index
        for parity in (0, 1)
        for index in sorted(
            range(parity, 40, 2),
            key=lambda i: hashlib.sha256(f"0/image_{i}.JPEG".encode()).hexdigest(),
        )[:2]
    )
    assert stratified_subset(names_of(40), [i % 2 for i in range(40)], 0.1, 0) == expected
    assert stratified_subset(names_of(40), [i % 2 for i in range(40)], 0.1, 1) != expected


def test_a_larger_subset_contains_the_published_list():
    names, labels = names_of(100), [i % 5 for i in range(100)]
    published = [f"image_{i}.JPEG" for i in range(0, 10)]
    subset = {names[i] for i in stratified_subset(names, labels, 0.2, 3, published)}
    assert set(published) < subset and len(subset) == 20


@pytest.mark.parametrize("fraction", [0, -1, 1.5, math.nan])
def test_fractions_out_of_range_are_an_error(fraction):
    with pytest.raises(UserError, match=f"label fraction is {fraction}"):
        stratified_subset(["a"], [1], fraction, 0)


def test_unknown_names_are_an_error():
    with pytest.raises(UserError, match="1 of the names to include are not in the data, such as 'x'"):
        stratified_subset(["a"], [1], 1, 0, ["x"])


def test_draw_per_class_takes_the_smallest_hashes_of_each_class():
    names, labels = names_of(30), [i % 3 - 1 for i in range(30)]  # -1: images without a label are a class too
    expected = [
        index
        for label in (-1, 0, 1)
        for index in sorted(
            (i for i in range(30) if labels[i] == label),
            key=lambda i: hashlib.sha256(f"salt{names[i]}".encode()).digest(),
        )[:4]
    ]
    assert draw_per_class(names, labels, lambda size: 4, "salt") == sorted(expected)
    assert draw_per_class(names, labels, lambda size: size // 5, "salt") == sorted(
        index for start in (0, 4, 8) for index in expected[start : start + 2]
    )


@pytest.mark.parametrize("fraction, held", [(0.2, [2, 4, 1, 0]), (0.001, [1, 1, 1, 0]), (0.999, [9, 19, 1, 0])])
def test_hold_out_takes_at_least_one_of_a_class_and_never_the_last(fraction, held):
    split = split_of([0] * 10 + [1] * 20 + [2] * 2 + [3])
    train, held_out = hold_out(split, fraction)
    assert np.bincount(held_out.labels, minlength=4).tolist() == held
    assert sorted(train.names + held_out.names) == sorted(split.names)


def test_hold_out_does_not_depend_on_the_order():
    split = split_of([0] * 10 + [1] * 20)
    _, expected = hold_out(split, 0.3, "7/")
    _, found = hold_out(split.subset(range(29, -1, -1)), 0.3, "7/")
    assert sorted(found.names) == sorted(expected.names)
    assert sorted(hold_out_labelled(split, 0.3, 7)[1].names) == sorted(expected.names)
    assert sorted(hold_out_labelled(split, 0.3, 8)[1].names) != sorted(expected.names)


def test_labelled_hold_out_needs_two_images_of_each_class():
    with pytest.raises(UserError, match="image_4.JPEG is the only labelled image of its class"):
        hold_out_labelled(split_of([0, 0, 1, 1, 2]), 0.2)


def test_a_list_of_any_names_is_read_back_whole(tmp_path):
    names = ["#1 dogs/a.jpg", "cats/#a.jpg", "#", " cats/b.jpg"]
    (tmp_path / "list.txt").write_text("".join(as_line(name) + "\n" for name in names))
    assert match_list(read_list(str(tmp_path / "list.txt")), names) == [0, 1, 2, 3]


def test_read_list_skips_comments_and_names_files_without_names(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeff# published\n\nn01/a.JPEG \r\n b b.JPEG\n".encode())
    assert read_list(str(path)) == ["n01/a.JPEG", "b b.JPEG"]
    path.write_text("\n# nothing\n")
    with pytest.raises(UserError, match="list.txt has no file names"):
        read_list(str(path))
    path.write_bytes(b"caf\xe9.jpg")
    with pytest.raises(UserError, match="list.txt is not UTF-8 text"):
        read_list(str(path))
    for place in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match=f"There is no text file at {place}"):
            read_list(str(place))


@pytest.mark.parametrize("text", [
    b"path,label\na/1.jpg,ant\nb/2.jpg,bee\n",
    b"\xef\xbb\xbfPath;Label\r\na\\1.jpg;ant\r\nb\\2.jpg;bee\r\n",
    b'label,path\n"an ""ant""\nof two lines","a/1.jpg"\n\nbee,"b/2.jpg"\n',
    b"path\na/1.jpg\nb/2.jpg",
])  # fmt: skip
def test_list_may_be_a_csv_file(tmp_path, text):
    (tmp_path / "list.csv").write_bytes(text)
    assert read_list(str(tmp_path / "list.csv")) == ["a/1.jpg", "b/2.jpg"]


def test_names_match_in_either_form_of_unicode():
    composed, decomposed = (unicodedata.normalize(form, "café/é.jpg") for form in ("NFC", "NFD"))
    assert match_list([composed], ["a.jpg", decomposed]) == match_list([decomposed], ["a.jpg", composed]) == [1]


def test_names_match_with_and_without_folders():
    names = ["a.JPEG", "train/n02/b b.JPEG", "x/c.JPEG", "y/c.JPEG"]
    assert match_list(["n01/a.JPEG", "b b.JPEG"], names) == [0, 1]
    assert match_list(["train/y/c.JPEG", "y/c.JPEG"], names) == [3]
    with pytest.raises(UserError, match="2 of 3 listed names are not in the data.* the first 'q.JPEG'"):
        match_list(["q.JPEG", "a.JPEG", "z/y/cc.JPEG"], names)
    with pytest.raises(UserError, match="'c.JPEG' matches 2 images"):
        match_list(["c.JPEG"], names)


@pytest.mark.parametrize("listed", [r"cats\1.jpg", '"cats/1.jpg"', "'cats/1.jpg'", r"C:\photos\cats\1.jpg"])
def test_lists_written_on_windows_or_with_quotes_match(listed):
    assert match_list([listed], ["cats/1.jpg", "cats/2.jpg"]) == [0]


def test_names_with_a_backslash_match_as_they_are():
    assert match_list([r"a\1.jpg"], [r"a\1.jpg", "a/1.jpg"]) == [0]
