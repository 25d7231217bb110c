"""Few-label scores of facebookresearch/mae: small models by its recipe, to compare with experiments.table.

    PYTHON -m experiments.mae.transfer --clone=MAE --images=CIFAR --minutes=57 --runs=runs/mae \\
        --labels=runs/cifar10/sweep-0.01/labels.txt,runs/cifar10/sweep-0.1/labels.txt --epochs=60,20

CIFAR has train/<class>/ and test/<class>/. The label lists come from our sweeps. Pre-training runs for --minutes on all cores.
With --images_per_second it runs the steps that an idle machine would do in that time. Then, for each list and each start
(pre-trained, scratch), it compares a grid of learning rates and layer decays on 5,000 training images outside the list, and
runs the winner with every seed on the test images.

Crops and mirroring in fine-tuning, its batch size, epochs, warm-up and label smoothing are ours. Masking, normalised pixels,
weight decay, layer-wise learning rates and stochastic depth are MAE's. The learning rate, batch size and warm-up of
pre-training are not tuned. Writes the mean of the patch vectors of every image to RUNS/features.npz, for experiments.features.
Run it again with the same --runs to resume.
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
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from experiments.mae.clone import open_clone

MEAN, SD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
SIZE = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "num_heads": 4}
WARM_UP = 1 / 12  # fraction of the steps of fine-tuning, as in our runs
PRETRAIN_CROP = 0.4
# The options on which everything in RUNS depends.
SETTINGS = (
    "images", "minutes", "images_per_second", "depth", "pretrain_rate", "pretrain_batch", "pretrain_warmup", "batch", "crop",
    "compare",
)  # fmt: skip

Examples = tuple[np.ndarray, np.ndarray]  # images uint8 (K, 3, S, S), and classes int (K,)


def main() -> None:
    """Pre-train, write the features, then fine-tune and print a score for each label list and start."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.mae.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clone", required=True, help="a clone of facebookresearch/mae")
    parser.add_argument("--images", required=True, type=Path, help="the folder with train/ and test/")
    parser.add_argument("--labels", required=True, help="files with the names of the labelled images")
    parser.add_argument("--epochs", required=True, help="the epochs of fine-tuning, one number for each file of --labels")
    parser.add_argument("--runs", required=True, type=Path, help="the folder for the results")
    parser.add_argument("--minutes", required=True, type=float, help="the minutes of pre-training")
    parser.add_argument("--images_per_second", type=float, help="the throughput on an idle machine, if this one is busy")
    parser.add_argument("--depth", type=int, default=4, help="the blocks of the encoder")
    parser.add_argument("--pretrain_rate", type=float, default=1e-3, help="the learning rate of pre-training")
    parser.add_argument("--pretrain_batch", type=int, default=128, help="the batch size of pre-training")
    parser.add_argument("--pretrain_warmup", type=float, default=1 / 12, help="a fraction of the steps; MAE's recipe has 1/20")
    parser.add_argument("--batch", type=int, default=32, help="the batch size of fine-tuning")
    parser.add_argument("--crop", type=float, default=0.75, help="the least fraction of an image in fine-tuning's crops")
    parser.add_argument("--compare", type=int, default=5000, help="training images outside the list, to compare settings on")
    parser.add_argument("--starts", default="pretrained,scratch", help="where fine-tuning starts from")
    parser.add_argument("--rates", type=numbers, default=[4e-4, 1e-3, 2e-3], help="the learning rates to compare")
    parser.add_argument("--layer_decays", type=numbers, default=[0.75], help="the layer decays to compare; scratch has 1")
    parser.add_argument("--seeds", default="0,1,2", help="the seeds of the winner")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in SETTINGS} | {"images": str(options.images)}
    if (before := kept(options.runs / "settings.json", lambda: settings)) != settings:
        parser.error(f"{options.runs} was made with other settings ({before}). Use another --runs, or the original values.")
    mae, vit, decay = open_clone(options.clone, "models_mae", "models_vit", "util.lr_decay")

    folders = sorted(folder.name for folder in (options.images / "train").iterdir() if folder.is_dir())
    options.classes = len(folders)
    names, images, classes = read(options.images / "train", folders)
    weights = kept(options.runs / "pretrained.pt", lambda: pretrain(mae, images, options))
    minutes = f"{weights['seconds'] / 60:.0f} minutes"
    print(f"pre-trained: {weights['steps']} steps of {options.pretrain_batch} images in {minutes}", flush=True)

    test_names, test_images, test_classes = read(options.images / "test", folders)
    test = (test_images, test_classes)
    if not (features_file := options.runs / "features.npz").exists():
        found = {"train_names": names, "test_names": test_names}
        for part, shown in (("train", images), ("test", test_images)):
            found[f"{part}_features"] = frozen_features(build_vit(vit, weights["model"], options), shown)
        write(features_file, lambda aside: savez(aside, found))
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for file, epochs in zip(options.labels.split(","), options.epochs.split(","), strict=True):
        wanted = sorted(set(Path(file).read_text().split("\n")) - {""})
        listed = np.isin(names, wanted)
        if listed.sum() != len(wanted):
            parser.error(f"--images has only {listed.sum()} of the {len(wanted)} names in {file}. Use labels.txt of our sweep.")
        digest = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:8]
        others = np.random.default_rng(0).permutation(np.flatnonzero(~listed))[: options.compare]
        labelled, compare = ((images[i], classes[i]) for i in (listed, others))
        for start in options.starts.split(","):
            row = f"{listed.sum()}-{digest}-{start}-{epochs}-epochs"

            def tune(examples, scored, point, seed, start=start, epochs=float(epochs)):
                return finetune(vit, decay, weights["model"] if start == "pretrained" else None, examples, scored,
                                *point, seed, epochs, options)  # fmt: skip

            def part(name, work, row=row):
                return kept(options.runs / f"{row}-{name}.json", work)

            layer_decays = options.layer_decays if start == "pretrained" else [1.0]
            grid = {point: part("grid-{:g}-{:g}".format(*point), partial(tune, labelled, compare, point, 0))
                    for point in product(options.rates, layer_decays)}  # fmt: skip
            rate, layer_decay = point = max(grid, key=grid.get)
            scores = [part(f"final-{rate:g}-{layer_decay:g}-{seed}", partial(tune, labelled, test, point, seed))
                      for seed in seeds]  # fmt: skip
            mean, sd = statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else 0.0
            print(f"{listed.sum()} labels, {start}, learning rate {rate:g}, layer_decay {layer_decay:g}: {mean:.1%} ± {sd:.1%}"
                  f" on {len(test_classes)} test images", flush=True)  # fmt: skip


def numbers(text: str) -> list[float]:
    """An argparse type: numbers separated by commas."""
    return [float(number) for number in text.split(",")]


def kept(file: Path, work: Callable[[], Any]) -> Any:
    """The result of `work()`, read from `file` if an earlier run wrote it there."""
    if not file.exists():
        found = work()
        write(file, partial(torch.save, found) if file.suffix == ".pt" else lambda aside: aside.write_text(json.dumps(found)))
    return torch.load(file) if file.suffix == ".pt" else json.loads(file.read_text())


def write(file: Path, save: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all: `save` writes a temporary file, which is then renamed."""
    aside = file.with_suffix(".writing")
    save(aside)
    aside.replace(file)


def savez(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to exactly this path. NumPy would add a suffix to a name."""
    with path.open("wb") as file:
        np.savez(file, **arrays)


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
    width = width * rng.choice([-1, 1], count)
    zero = np.zeros(count)
    theta = np.stack([np.stack([width, zero, x], 1), np.stack([zero, height, y], 1)], 1)
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


def set_rate(optimizer: torch.optim.Optimizer, rate: float, done: float, warm_up: float) -> None:
    """Set the learning rate: linear warm-up, then cosine. Each group is scaled as in MAE's lr_sched.

    Args:
        optimizer: the optimizer.
        rate: the highest learning rate.
        done: the fraction of the run that is done.
        warm_up: the fraction of the run that warms up.
    """
    now = rate * (done / warm_up if done < warm_up else (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2)
    for group in optimizer.param_groups:
        group["lr"] = now * group.get("lr_scale", 1)


def pretrain(mae: ModuleType, images: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Pre-train for `options.minutes`. The time used, or the steps if the throughput is given, drives the learning rate.

    Args:
        mae: the clone's `models_mae`.
        images: uint8 `(K, 3, S, S)`.
        options: the options of the command line.

    Returns:
        The state of the `model`, its `parameters`, and the `steps` and `seconds` of training.
    """
    torch.manual_seed(0)
    model = mae.MaskedAutoencoderViT(
        **SIZE, depth=options.depth, decoder_embed_dim=64, decoder_depth=2, decoder_num_heads=4, norm_pix_loss=True
    )
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    parameters = sum(p.numel() for p in model.parameters())
    print(f"MAE with {parameters / 1e6:.2f}M parameters", flush=True)
    steps, seconds, total, unfinished = 0, 0.0, 60 * options.minutes, options.runs / "pretraining.pt"
    if unfinished.exists():  # a resumed run draws other crops than an uninterrupted one
        saved = torch.load(unfinished)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        steps, seconds = saved["steps"], saved["seconds"]
    rng, began, batch = np.random.default_rng(steps), time.monotonic() - seconds, options.pretrain_batch
    for indices in batches(len(images), batch, steps):
        seconds = time.monotonic() - began
        spent = batch * steps / options.images_per_second if options.images_per_second else seconds
        if spent > total:
            break
        set_rate(optimizer, options.pretrain_rate, spent / total, options.pretrain_warmup)
        loss, _, _ = model(crops(images[indices], rng, PRETRAIN_CROP), mask_ratio=0.75)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if steps % 200 == 0:
            speed = f"{batch * steps / seconds:.0f} images/s"
            print(f"step {steps}  loss {float(loss.detach()):.4f}  {speed}  {seconds / 60:.1f} minutes", flush=True)
        if steps % 2000 == 0:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": steps, "seconds": seconds}
            write(unfinished, partial(torch.save, saved))
    return {"model": model.state_dict(), "steps": steps, "seconds": seconds, "parameters": parameters}


def build_vit(vit: ModuleType, weights: dict[str, torch.Tensor] | None, options: argparse.Namespace) -> torch.nn.Module:
    """MAE's classifier, from the clone's `models_vit`. Its encoder has the pre-trained `weights`, unless they are None."""
    model = vit.VisionTransformer(
        **SIZE, depth=options.depth, mlp_ratio=4, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        global_pool=True, num_classes=options.classes, drop_path_rate=0.1,
    )  # fmt: skip
    if weights is not None:
        left = model.load_state_dict(weights, strict=False).missing_keys
        assert set(left) == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}, left
        torch.nn.init.trunc_normal_(model.head.weight, std=2e-5)
    return model


def frozen_features(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """The mean of the patch vectors after the last block, float32 `(K, D)`, of images uint8 `(K, 3, S, S)`."""
    model.eval()
    model.fc_norm = torch.nn.Identity()  # the classifier normalises the mean with weights that are not trained yet
    with torch.inference_mode():
        parts = np.array_split(images, max(1, len(images) // 500))
        return np.concatenate([model.forward_features(normalize(part)).numpy() for part in parts])


def finetune(
    vit: ModuleType,
    decay: ModuleType,
    weights: dict[str, torch.Tensor] | None,
    examples: Examples,
    scored: Examples,
    rate: float,
    layer_decay: float,
    seed: int,
    epochs: float,
    options: argparse.Namespace,
) -> float:
    """Fine-tune a classifier and score it.

    Args:
        vit: the clone's `models_vit`.
        decay: the clone's `util.lr_decay`.
        weights: the pre-trained weights, or None to train from scratch.
        examples: the labelled images to train on.
        scored: the images to score.
        rate: the highest learning rate.
        layer_decay: the factor of the learning rate from a block to the block before it.
        seed: the seed of weights, order and crops.
        epochs: the passes over `examples`.
        options: the options of the command line.

    Returns:
        The top-1 accuracy on `scored`.
    """
    torch.manual_seed(seed)
    images, classes = examples
    model = build_vit(vit, weights, options)
    groups = decay.param_groups_lrd(model, 0.05, ["pos_embed", "cls_token"], layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=rate)
    steps, rng = max(1, round(epochs * len(images) / options.batch)), np.random.default_rng(seed)
    model.train()
    for step, indices in zip(range(steps), batches(len(images), options.batch, seed), strict=False):
        set_rate(optimizer, rate, step / steps, WARM_UP)
        logits = model.head(model.forward_features(crops(images[indices], rng, options.crop)))
        loss = functional.cross_entropy(logits, torch.from_numpy(classes[indices]), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        found = [model.head(model.forward_features(normalize(part))).argmax(1).numpy()
                 for part in np.array_split(scored[0], max(1, len(scored[0]) // 500))]  # fmt: skip
    top1 = float((np.concatenate(found) == scored[1]).mean())
    print(f"{len(images)} labels, {'scratch' if weights is None else 'pretrained'}, learning rate {rate:g}, "
          f"layer_decay {layer_decay:g}, seed {seed}: {top1:.1%}", flush=True)  # fmt: skip
    return top1


if __name__ == "__main__":
    main()
