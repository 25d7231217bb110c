"""Few-label scores of facebookresearch/mae: small models by its recipe, to compare with experiments.table.

    PYTHON -m experiments.mae.transfer --clone=MAE --images=CIFAR --minutes=57 --runs=runs/mae \\
        --labels=runs/cifar10/sweep-0.01/labels.txt,runs/cifar10/sweep-0.1/labels.txt --epochs=60,20

CIFAR has train/<class>/ and test/<class>/. The label lists come from our sweeps. Pre-training runs for --minutes on all cores.
Then, for each list and each start (pre-trained, scratch), it compares a grid of learning rates and layer decays on 5,000
training images outside the list, and runs the winner with every seed on the test images.

Crops and mirroring in fine-tuning, its batch size, epochs, warm-up and label smoothing are ours. Masking, normalised pixels,
weight decay, layer-wise learning rates and stochastic depth are MAE's. Learning rate, batch size, warm-up and mask ratio of
pre-training are flags, so that they can be tuned, with another --runs for each setting. Writes the mean of the patch vectors of
every image to RUNS/features.npz, for experiments.features.
Run it again with the same --runs to reuse a finished pre-training and the scores that are there.
"""

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.optim import param_groups_weight_decay
from torch.nn import functional

from experiments.mae.clone import add_clone

MEAN, SD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
SIZE = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "num_heads": 4, "depth": 4}
PRETRAINING = {"rate": 1e-3, "batch": 128, "warm_up": 1 / 12, "mask_ratio": 0.75, "seed": 0}
PRETRAIN_CROP = 0.4
BATCH, CROP = 32, 0.75  # of fine-tuning
WARM_UP = 1 / 12  # of fine-tuning, a fraction of the steps, as in our runs
COMPARE = 5000  # training images outside the list, to compare settings on

Weights = dict[str, torch.Tensor]
Examples = tuple[np.ndarray, np.ndarray]  # images uint8 (K, 3, S, S), and classes int (K,)


def main() -> None:
    """Pre-train, write the features, then fine-tune and print a score for each label list and start."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.mae.transfer", description=__doc__, formatter_class=layout)
    parser.add_argument("--clone", required=True, help="a clone of facebookresearch/mae")
    parser.add_argument("--images", required=True, type=Path, help="the folder with train/ and test/")
    parser.add_argument("--labels", required=True, help="files with the names of the labelled images")
    parser.add_argument("--epochs", required=True, help="the epochs of fine-tuning, one number for each file of --labels")
    parser.add_argument("--runs", required=True, type=Path, help="the folder for the results")
    parser.add_argument("--minutes", required=True, type=float, help="the minutes of pre-training")
    does = {"rate": "highest learning rate", "batch": "images per step", "warm_up": "fraction of the minutes until then",
            "mask_ratio": "fraction of the patches that is masked", "seed": "seed"}  # fmt: skip
    for name, value in PRETRAINING.items():
        parser.add_argument(f"--pretrain_{name}", type=type(value), default=value, help=f"pre-training: {does[name]}")
    parser.add_argument("--starts", default="pretrained,scratch", help="where fine-tuning starts from")
    parser.add_argument("--rates", default="4e-4,1e-3,2e-3", help="the learning rates to compare")
    parser.add_argument("--layer_decays", default="0.75", help="the layer decays to compare; scratch has 1")
    parser.add_argument("--seeds", default="0,1,2", help="the seeds of the winner")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    recipe = {name: getattr(options, f"pretrain_{name}") for name in PRETRAINING}
    settings = {"images": str(options.images), "minutes": options.minutes, **recipe}  # everything in RUNS depends on them
    before = PRETRAINING | kept(options.runs / "settings.json", lambda: settings)  # an older file has no recipe
    if before != settings:
        parser.error(f"{options.runs} was made with other settings ({before}). Use another --runs, or the original values.")
    add_clone(options.clone)

    folders = sorted(folder.name for folder in (options.images / "train").iterdir() if folder.is_dir())
    names, images, classes = read(options.images / "train", folders)
    test_names, *test = read(options.images / "test", folders)
    pretrained = kept(options.runs / "pretrained.pt", lambda: pretrain(images, options.minutes, **recipe))
    minutes = f"{pretrained['seconds'] / 60:.0f} minutes"
    print(f"pre-trained: {pretrained['steps']} steps of {options.pretrain_batch} images in {minutes}", flush=True)
    build = partial(build_vit, len(folders))
    train_features, test_features = (frozen_features(build(pretrained["model"]), part) for part in (images, test[0]))
    np.savez(options.runs / "features.npz", train_names=names, train_features=train_features,
             test_names=test_names, test_features=test_features)  # fmt: skip

    for file, epochs in zip(options.labels.split(","), options.epochs.split(","), strict=True):
        wanted = sorted(set(Path(file).read_text().split("\n")) - {""})
        listed = np.isin(names, wanted)
        if listed.sum() != len(wanted):
            parser.error(f"--images has only {listed.sum()} of the {len(wanted)} names in {file}. Use labels.txt of our sweep.")
        digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:8]
        others = np.random.default_rng(0).permutation(np.flatnonzero(~listed))[:COMPARE]
        labelled, compare = ((images[i], classes[i]) for i in (listed, others))
        for start in options.starts.split(","):
            weights, layer_decays = (pretrained["model"], options.layer_decays) if start == "pretrained" else (None, "1")
            tune = partial(finetune, build, weights, labelled, float(epochs))
            row, grid, scores = f"{len(wanted)}-{digest}-{start}-{epochs}-epochs", {}, []
            for point in product(numbers(options.rates), numbers(layer_decays)):
                file = options.runs / "{}-grid-{:g}-{:g}.json".format(row, *point)
                grid[point] = kept(file, partial(tune, compare, *point, seed=0))
            rate, layer_decay = max(grid, key=grid.get)
            for seed in options.seeds.split(","):
                file = options.runs / f"{row}-final-{rate:g}-{layer_decay:g}-{seed}.json"
                scores.append(kept(file, partial(tune, test, rate, layer_decay, seed=int(seed))))
            mean, sd = statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else 0.0
            print(f"{len(wanted)} labels, {start}, learning rate {rate:g}, layer_decay {layer_decay:g}: {mean:.1%} ± {sd:.1%}"
                  f" on {len(test_names)} test images", flush=True)  # fmt: skip


def numbers(text: str) -> list[float]:
    """Numbers separated by commas."""
    return [float(number) for number in text.split(",")]


def kept(file: Path, work: Callable[[], Any]) -> Any:
    """The result of `work()`, read from `file` if an earlier run wrote it there. The file is written whole or not at all."""
    if not file.exists():
        found, aside = work(), file.with_suffix(".writing")
        if file.suffix == ".pt":
            torch.save(found, aside)
        else:
            aside.write_text(json.dumps(found))
        aside.replace(file)
    return torch.load(file) if file.suffix == ".pt" else json.loads(file.read_text())


def read(folder: Path, folders: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The names `(K,)`, images uint8 `(K, 3, S, S)` and classes int `(K,)` of a split. `folders` are the class folders in the
    order of the classes.
    """
    files = sorted(file for file in folder.glob("*/*") if file.is_file())
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]).transpose(0, 3, 1, 2)
    classes = np.array([folders.index(file.parent.name) for file in files])
    return np.array([f"{file.parent.name}/{file.name}" for file in files]), images, classes


def normalize(images: np.ndarray) -> torch.Tensor:
    """Images uint8 `(B, 3, S, S)` as float32, with the mean and deviation of ImageNet removed."""
    return (torch.from_numpy(images).float() / 255 - MEAN) / SD


def crops(images: np.ndarray, rng: np.random.Generator, least: float) -> torch.Tensor:
    """Random crops with at least the fraction `least` of the area, resized and normalised, half of them mirrored.

    Takes images uint8 `(B, 3, S, S)`, and returns float32 `(B, 3, S, S)`.
    """
    count = len(images)
    side, shape = np.sqrt(rng.uniform(least, 1, count)), np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), count) / 2)
    width, height = np.minimum(side * shape, 1), np.minimum(side / shape, 1)
    x, y = rng.uniform(-1, 1, count) * (1 - width), rng.uniform(-1, 1, count) * (1 - height)
    width, zero = width * rng.choice([-1, 1], count), np.zeros(count)
    theta = np.array([[width, zero, x], [zero, height, y]]).transpose(2, 0, 1)
    pixels = normalize(images)
    grid = functional.affine_grid(torch.from_numpy(theta).float(), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def batches(count: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of endless shuffled batches of `count` examples."""
    rng, order = np.random.default_rng(seed), np.array([], int)
    while True:
        while len(order) < batch:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:batch]
        order = order[batch:]


def set_rate(optimizer: torch.optim.Optimizer, rate: float, done: float, warm_up: float = WARM_UP) -> None:
    """Set the learning rate as MAE does, when the fraction `done` of the run is done. `rate` is the highest one."""
    from util.lr_sched import adjust_learning_rate

    whole = argparse.Namespace(lr=rate, min_lr=0.0, warmup_epochs=warm_up, epochs=1)
    adjust_learning_rate(optimizer, done, whole)


def pretrain(
    images: np.ndarray, minutes: float, rate: float, batch: int, warm_up: float, mask_ratio: float, seed: int
) -> dict[str, Any]:
    """Pre-train on images uint8 `(K, 3, S, S)` for so many minutes. The time that has passed drives the learning rate.

    Args:
        images: the training images.
        minutes: how long.
        rate: the highest learning rate.
        batch: images per step.
        warm_up: the fraction of the minutes in which the learning rate rises.
        mask_ratio: the fraction of the patches that is masked.
        seed: of weights, order, crops and masks.

    Returns:
        The state of the `model`, and the `steps` and `seconds` of training.
    """
    from models_mae import MaskedAutoencoderViT

    torch.manual_seed(seed)
    model = MaskedAutoencoderViT(**SIZE, decoder_embed_dim=64, decoder_depth=2, decoder_num_heads=4, norm_pix_loss=True)
    optimizer = torch.optim.AdamW(param_groups_weight_decay(model, 0.05), betas=(0.9, 0.95))
    print(f"MAE with {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters", flush=True)
    rng, began = np.random.default_rng(seed), time.monotonic()
    for steps, indices in enumerate(batches(len(images), batch, seed)):
        seconds = time.monotonic() - began
        if seconds > 60 * minutes:
            return {"model": model.state_dict(), "steps": steps, "seconds": seconds}
        set_rate(optimizer, rate, seconds / (60 * minutes), warm_up)
        loss, _, _ = model(crops(images[indices], rng, PRETRAIN_CROP), mask_ratio=mask_ratio)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if steps % 200 == 199:
            speed = f"{batch * steps / seconds:.0f} images/s"
            print(f"step {steps + 1}  loss {float(loss.detach()):.4f}  {speed}  {seconds / 60:.1f} minutes", flush=True)


def build_vit(classes: int, weights: Weights | None) -> torch.nn.Module:
    """MAE's classifier. Its encoder has the pre-trained `weights`, unless they are None."""
    from models_vit import VisionTransformer

    model = VisionTransformer(**SIZE, mlp_ratio=4, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
                              global_pool=True, num_classes=classes, drop_path_rate=0.1)  # fmt: skip
    if weights is not None:
        left = model.load_state_dict(weights, strict=False).missing_keys
        assert set(left) == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}, left
        torch.nn.init.trunc_normal_(model.head.weight, std=2e-5)
    return model


def in_parts(function: Callable[[torch.Tensor], torch.Tensor], images: np.ndarray) -> np.ndarray:
    """A function of normalised images `(B, 3, S, S)`, computed for images uint8 `(K, 3, S, S)` in batches of about 500."""
    with torch.inference_mode():
        return np.concatenate([function(normalize(p)).numpy() for p in np.array_split(images, max(1, len(images) // 500))])


def frozen_features(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """The mean of the patch vectors after the last block, float32 `(K, D)`, of images uint8 `(K, 3, S, S)`."""
    model.eval()
    model.fc_norm = torch.nn.Identity()  # the classifier normalises the mean with weights that are not trained yet
    return in_parts(model.forward_features, images)


def finetune(
    build: Callable, weights: Weights | None, examples: Examples, epochs: float,
    scored: Examples, rate: float, layer_decay: float, seed: int,
) -> float:  # fmt: skip
    """Fine-tune a classifier and score it.

    Args:
        build: makes the classifier from the weights.
        weights: the pre-trained weights, or None to train from scratch.
        examples: the labelled images to train on.
        epochs: the passes over `examples`.
        scored: the images to score.
        rate: the highest learning rate.
        layer_decay: the factor of the learning rate from a block to the block before it.
        seed: the seed of weights, order and crops.

    Returns:
        The top-1 accuracy on `scored`.
    """
    from util.lr_decay import param_groups_lrd

    torch.manual_seed(seed)
    (images, classes), model = examples, build(weights)
    optimizer = torch.optim.AdamW(param_groups_lrd(model, 0.05, ["pos_embed", "cls_token"], layer_decay), lr=rate)
    steps, rng = max(1, round(epochs * len(images) / BATCH)), np.random.default_rng(seed)
    model.train()
    for step, indices in zip(range(steps), batches(len(images), BATCH, seed), strict=False):
        set_rate(optimizer, rate, step / steps)
        logits = model.head(model.forward_features(crops(images[indices], rng, CROP)))
        loss = functional.cross_entropy(logits, torch.from_numpy(classes[indices]), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    found = in_parts(lambda pixels: model.head(model.forward_features(pixels)).argmax(1), scored[0])
    top1 = float((found == scored[1]).mean())
    start = "scratch" if weights is None else "pretrained"
    settings = f"learning rate {rate:g}, layer_decay {layer_decay:g}, seed {seed}"
    print(f"{len(images)} labels, {start}, {settings}: {top1:.1%}", flush=True)
    return top1


if __name__ == "__main__":
    main()
