"""Scores count every validation image once."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from pf_keras.data.pipeline import evaluation_batches
from pf_keras.data.sources import open_source
from pf_keras.evaluation.scores import predict_logits, top_k
from pf_keras.noise import pretrain_noise
from pf_keras.training.devices import open_devices
from pf_keras.training.identity import find_run
from pf_keras.training.weights import load
from pf_keras.training.workdir import Workdir


def test_top_k_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(500, 12)), rng.integers(0, 12, 500)
    for k in (1, 5):
        assert top_k(logits, labels, k) == pytest.approx(top_k_accuracy_score(labels, logits, k=k))


def test_top_5_of_three_classes_is_1():
    assert top_k(np.zeros((4, 3)), np.array([0, 1, 2, 2]), 5) == 1.0


def test_logits_do_not_depend_on_the_batch_size(finetuned):
    config, model, devices = find_run(Workdir(finetuned.workdir)).config, load(finetuned.workdir), open_devices()
    split = open_source(config.data).validation.subset(range(29))

    def logits(batch):
        return predict_logits(model, split, replace(config, run=replace(config.run, eval_batch=batch)), devices)

    alone = logits(1)
    for batch in (7, 360, 500):
        found = logits(batch)
        assert found.shape == (29, 10)
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_marginal_entropy_of_pretraining_counts_the_levels_of_validation_targets(pretrained):
    """Counted again in NumPy: the grey levels of the masked patches of every validation digit."""
    config = find_run(Workdir(pretrained.workdir)).config
    validation = open_source(config.data).validation
    counts = np.zeros(4)
    seen = 0
    for batch in evaluation_batches(validation, config, 64, pretrain_noise(config)):
        for image, noise in zip(batch["image"].numpy(), batch["mask_noise"].numpy(), strict=True):
            seen += 1
            if seen > validation.size:
                break
            # 16 patches in 4 blocks of 4: the first 10 patches, block by block in the order of the noise, moved as a whole
            rank, (down, right) = np.argsort(np.argsort(noise[:4])), (noise[4:] * np.float32(4)).astype(int)
            order = sorted(range(16), key=lambda i: (rank[i // 4 // 2 * 2 + i % 4 // 2], i // 4 % 2, i % 2))
            for place in order[:10]:
                top, left = (place // 4 + down) % 4 * 4 + 1, (place % 4 + right) % 4 * 4 + 1
                pixels = image[top : top + 2, left : left + 2, 0]  # digits are grey
                counts += np.bincount(pixels.ravel() // 64, minlength=4)
    fractions = counts / counts.sum()
    entropy = -sum(p * np.log(p) for p in fractions if p)
    assert entropy == pytest.approx(pretrained.result["marginal_entropy"], rel=1e-6)
