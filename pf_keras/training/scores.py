"""Scores of a classifier: every example counted once, whatever the batch."""

import numpy as np


def predict_logits(model, batches, examples):
    """float32 (examples, classes), from evaluation batches whose last one is filled up."""
    # Of a model that was trained by many steps an execution Keras would trace that many batches into one graph.
    model.steps_per_execution, model.predict_function = 1, None
    return np.asarray(model.predict(batches, verbose=0))[:examples]


def top_k(logits, labels, k):
    """The share of examples whose label is among the k highest logits; of equal ones the lower class is first.

    logits: (n, classes); labels: int (n,).
    """
    order = np.argsort(-np.asarray(logits), axis=1, kind="stable")[:, :k]
    return float((order == np.asarray(labels)[:, None]).any(axis=1).mean())
