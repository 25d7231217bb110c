"""Label subsets and hold-outs against digests recorded with version 0.1: every version must draw the same images."""

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pf_keras.data.images import Images
from pf_keras.data.selection import hold_out, hold_out_labelled, stratified_subset

COUNTS = {0: 1, 1: 2, 2: 3, 3: 7, 4: 40, 5: 101}  # images per class


def split_of(counts, labelled=True):
    """A split of made-up names, in an order that mixes the classes."""
    examples = [(label, i) for label, count in counts.items() for i in range(count)]
    examples.sort(key=lambda example: hashlib.sha256("{}-{}".format(*example).encode()).hexdigest())
    names = [f"class{label}/photo {i} é.jpg" for label, i in examples]
    return Images(names, [label if labelled else -1 for label, _ in examples], [b""] * len(names))


def numbered(labels):
    return Images([f"{i}.jpg" for i in range(len(labels))], labels, [b""] * len(labels))


def digests(*parts):
    """16 digits of the sha256 of the names of each part."""
    return tuple(hashlib.sha256("\n".join(part).encode()).hexdigest()[:16] for part in parts)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.05, ("c64499fbed86807e", "2f417e325d902f5e", "81aa84ff020e27d4")),
        (0.2, ("ff1e6eeb9fe2756b", "046cd3995cc72f58", "12c54218d4c517cb")),
        (0.5, ("8ee6ede974eba061", "f6d04534f39ea79e", "3906f8df8d25ff9b")),
        (0.95, ("295a8e333937c876", "fdf9b70db9021276", "115ae8da6955cdd7")),
    ],
)
def test_hold_out_of_a_folder(fraction, expected):
    train, held = hold_out(split_of(COUNTS), fraction)
    unlabelled = hold_out(split_of(COUNTS, labelled=False), fraction)[1]
    assert digests(train.names, held.names, unlabelled.names) == expected


@pytest.mark.parametrize(
    ("fraction", "seed", "expected"),
    [
        (0.05, 0, ("fc7b96c2b6212742", "9dae31ffc9c81ca7")),
        (0.05, 3, ("d41fb19df2b05f1e", "f95d805e23837198")),
        (0.2, 0, ("aab3a789f1104a82", "8e18b5cdd2c48715")),
        (0.2, 3, ("271af85ab5de37cb", "07101c31251c2340")),
        (0.5, 0, ("eb1600d88c291807", "e10a3acedfb1938b")),
        (0.5, 3, ("6bd83b2f180c1c91", "9eb00f28c5afd43f")),
        (0.95, 0, ("2be8f7fe84822d9b", "dd71bfe5778e16fc")),
        (0.95, 3, ("01e2bbb6d4a700f0", "2de7dfec9461d8b1")),
    ],
)
def test_hold_out_of_labelled_images(fraction, seed, expected):
    split = split_of({label: count for label, count in COUNTS.items() if count > 1})
    assert digests(*(part.names for part in hold_out_labelled(split, fraction, seed))) == expected


@pytest.mark.parametrize(
    ("fraction", "seed", "expected"),
    [
        (0.05, 0, ("2feb67815b32b512", "0941671b5c359dc8")),
        (0.05, 3, ("3d930297d8948e56", "267a08ad0c13e902")),
        (0.1, 0, ("82d38cb41208a7bf", "cfa53bdeed095d1a")),
        (0.1, 3, ("b3a8f20415a4ce85", "e1085285c9c0be4b")),
        (0.5, 0, ("42bb8d51e4011b48", "653fd6a8c761be3c")),
        (0.5, 3, ("966c5075694fb582", "0713b806f5b10e0b")),
        (1.0, 0, ("aafd67b7b04e4c93", "aafd67b7b04e4c93")),
    ],
)
def test_label_subset_without_and_with_included_names(fraction, seed, expected):
    split = split_of({0: 20, 1: 50, 2: 101})
    drawn = (stratified_subset(split.names, split.labels, fraction, seed, first) for first in ((), split.names[:5]))
    assert digests(*([split.names[i] for i in indices] for indices in drawn)) == expected


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.01, 0.99))
def test_hold_out_takes_a_fraction_of_each_class(labels, fraction):
    split = numbered(labels)
    train, held = hold_out(split, fraction)
    assert sorted([*train.names, *held.names]) == sorted(split.names)
    for label, count in Counter(labels).items():
        kept = held.labels.tolist().count(label)
        assert kept == min(max(1, round(fraction * count)), count - 1), (label, kept, count)
        assert train.labels.tolist().count(label) == count - kept


@pytest.mark.parametrize(("fraction", "counts"), [(0.2, [20, 1, 1]), (0.9, [90, 1, 2])])
def test_rare_class_does_not_change_the_hold_out_of_other_classes(fraction, counts):
    train, held = hold_out_labelled(numbered([0] * 100 + [1] * 2 + [2] * 3), fraction)
    assert np.bincount(held.labels).tolist() == counts and train.size + held.size == 105


def test_small_label_fraction_keeps_an_image_of_every_class_and_says_so(capsys):
    split = split_of({0: 10, 1: 3, 2: 100})
    subset = stratified_subset(split.names, split.labels, 0.1, 0)
    assert np.bincount(split.labels[subset]).tolist() == [1, 1, 10]
    assert "keeps none of the 3 images in the class of class1/photo" in capsys.readouterr().err
    smaller = stratified_subset(split.names, split.labels, 0.01, 0)
    assert np.bincount(split.labels[smaller]).tolist() == [1, 1, 1] and set(smaller) < set(subset)
    assert "class0/photo" in (said := capsys.readouterr().err) and "as in 1 other class: one image of each is kept" in said
    stratified_subset(split.names, split.labels, 0.3334, 0)
    assert not capsys.readouterr().err


def test_selection_imports_neither_tensorflow_nor_keras():
    code = "import sys, pf_keras.data.selection; sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
