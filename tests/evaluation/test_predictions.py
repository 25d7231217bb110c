"""Rows of predictions: their numbers, their order, and which images are shown."""

import numpy as np
import pytest
from scipy.stats import entropy

from pf_keras.evaluation.predictions import Predictions, answer, numbers_in_head, row_kind, softmax, true_labels


def predictions_of(logits, labels, classes):
    rows = np.zeros(len(logits), row_kind(len(classes)))
    for name, values in answer(softmax(np.asarray(logits, "float32"))).items():
        rows[name] = values
    return Predictions(rows, np.asarray(labels), classes)


def test_answers_agree_with_numpy_and_scipy():
    logits = np.random.default_rng(0).normal(size=(20, 9)).astype("float32") * 3
    probabilities = softmax(logits)
    found = answer(probabilities)
    expected = np.exp(logits.astype("float64")) / np.exp(logits.astype("float64")).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-12)
    np.testing.assert_array_equal(found["classes"], np.argsort(-logits, axis=1)[:, :5])
    np.testing.assert_allclose(found["probabilities"], -np.sort(-expected, axis=1)[:, :5])
    np.testing.assert_allclose(found["entropy"], entropy(expected, axis=1))


def test_certain_answer_has_no_entropy():
    found = answer(np.array([[1.0, 0.0], [1 + 1e-7, 0.0]]))["entropy"]
    assert found[0] == 0 and [f"{value:.4f}" for value in found] == ["0.0000"] * 2


def test_table_begins_with_confident_mistakes_and_ends_with_unreadable_images():
    logits = [[5, 0, 0], [2, 0, 0], [0, 4, 0], [0, 0, 6], [0, 3, 0]]
    found = predictions_of(logits, [0, 1, 0, 2, -1], ("cat", "dog", "owl"))
    rows = list(found.table(["a", "b", "c", "d", "e"], [("f", "an empty file")]))
    assert rows[0] == ["path", "class", "probability", "class_2", "probability_2", "class_3", "probability_3", "entropy",
                       "true_class", "mistake", "error"]  # fmt: skip
    table = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert [row["path"] for row in table] == ["c", "b", "a", "d", "e", "f"]
    assert [row["mistake"] for row in table] == [1, 2, "", "", "", ""]
    assert [row["true_class"] for row in table] == ["cat", "dog", "cat", "owl", "", ""]
    assert (table[0]["class"], table[0]["probability"]) == ("dog", f"{np.exp(4) / (np.exp(4) + 2):.4f}")
    assert table[-1]["error"] == "an empty file" and table[-1]["class"] == ""


def test_extremes_of_a_class_do_not_overlap():
    logits = np.zeros((12, 3))
    logits[np.arange(12), [0] * 11 + [2]] = np.arange(1, 13)
    found = predictions_of(logits, [-1] * 12, ("cat", "dog", "owl")).extremes()
    assert [number for number, *_ in found] == [0, 2]
    assert found[0][1].tolist() == [10, 9, 8, 7] and found[0][2].tolist() == [0, 1, 2, 3]
    assert found[1][1].tolist() == [11] and found[1][2].tolist() == []


def test_classes_of_data_are_matched_by_name():
    head = ("cat", "dog", "café")
    assert numbers_in_head(("dog", "cow", "cafe\u0301"), head).tolist() == [1, -1, 2]
    assert numbers_in_head(head, head) is None and numbers_in_head((), head) is None
    assert numbers_in_head(("x", "y"), ("a", "a")) is None


@pytest.mark.parametrize(
    ("labels", "names", "expected", "unknown"),
    [
        ([0, 1, -1, 2], ("dog", "cow", "cat"), [1, -1, -1, 0], ["cow"]),
        ([0, 2, 5, -1], (), [0, 2, -1, -1], ["5"]),
        ([0, 1], ("2021", "2022"), [-1, -1], ["2021", "2022"]),
        ([-1, -1], (), [-1, -1], []),
        ([-1], ("cow",), [-1], []),
        ([2, 2**40, 2**40, -1], (), [2, -1, -1, -1], [str(2**40)]),
        ([0, 7], ("dog",), [1, -1], ["7"]),
    ],
)
def test_images_of_unknown_classes_count_as_unlabelled(labels, names, expected, unknown):
    found, missing = true_labels(np.array(labels), names, ("cat", "dog", "owl"))
    assert found.tolist() == expected and missing == unknown
