"""The few-label figures of facebookresearch/mae, beside those of `experiments.table`: its models, small, by its recipe.

    PYTHON -m experiments.mae.transfer --clone=MAE --images=CIFAR --minutes=57 --runs=runs/mae \\
        --labels=runs/cifar10/sweep-0.01/labels.txt,runs/cifar10/sweep-0.1/labels.txt --epochs=60,20

CIFAR has `train/<class>/` and `test/<class>/`; the labels are those that our sweeps used. It is pre-trained for so many
minutes as ours, on all cores; with --images_per_second for the steps that it makes in them when nothing else runs. Then
for each list and start (pre-trained, scratch) a grid of learning rates and layer decays is compared on 5,000 training images
outside the list, and the winner runs with every seed on the test images. Of fine-tuning crops, mirroring, batch, epochs,
warm-up and label smoothing are ours; masking, normalised pixels, weight decay, layer-wise rates and stochastic depth are
MAE's. Rate, batch and warm-up of its pre-training are given, not searched for. The mean of its patches' vectors, for every
image, goes to RUNS/features.npz, for `experiments.features`. Started again with the same RUNS
it goes on with what is left.
"""

import argparse
import hashlib
import json
import math
import statistics
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from experiments.mae.clone import open_clone

MEAN, SD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
SIZE = {"img_size": 32, "patch_size": 4, "embed_dim": 128, "num_heads": 4}
WARM_UP = 1 / 12  # of the steps of fine-tuning, as ours
PRETRAIN_CROP = 0.4
# Of all that RUNS keeps.
SETTINGS = (
    "images", "minutes", "images_per_second", "depth", "pretrain_rate", "pretrain_batch", "pretrain_warmup", "batch", "crop",
    "compare",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(
        prog="python -m experiments.mae.transfer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clone", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--labels", required=True, help="files with the names of the labelled images")
    parser.add_argument("--epochs", required=True, help="of fine-tuning, for each of them")
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--minutes", required=True, type=float, help="of pre-training")
    parser.add_argument("--images_per_second", type=float, help="its rate alone on the machine, for one that is busy")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--pretrain_rate", type=float, default=1e-3)
    parser.add_argument("--pretrain_batch", type=int, default=128)
    parser.add_argument("--pretrain_warmup", type=float, default=1 / 12, help="a share of its steps; MAE's own recipe has 1/20")
    parser.add_argument("--batch", type=int, default=32, help="of fine-tuning")
    parser.add_argument("--crop", type=float, default=0.75, help="the least share of an image in fine-tuning's crops")
    parser.add_argument("--compare", type=int, default=5000, help="training images outside the list, to choose a rate on")
    parser.add_argument("--starts", default="pretrained,scratch")
    parser.add_argument("--rates", type=numbers, default=[4e-4, 1e-3, 2e-3])
    parser.add_argument("--layer_decays", type=numbers, default=[0.75], help="1 alone is tried from scratch")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in SETTINGS} | {"images": str(options.images)}
    if (before := kept(options.runs / "settings.json", lambda: settings)) != settings:
        parser.error(f"expected the settings of --runs, {before}; received {settings}; use another --runs")
    mae, vit, decay = open_clone(options.clone, "models_mae", "models_vit", "util.lr_decay")

    folders = sorted(folder.name for folder in (options.images / "train").iterdir() if folder.is_dir())
    options.classes = len(folders)
    names, images, classes = read(options.images / "train", folders)
    weights = kept(options.runs / "pretrained.pt", lambda: pretrain(mae, images, options))
    minutes = f"{weights['seconds'] / 60:.0f} minutes"
    print(f"pre-trained: {weights['steps']} steps of {options.pretrain_batch} in {minutes}", flush=True)

    test_names, test_images, test_classes = read(options.images / "test", folders)
    test = (test_images, test_classes)
    if not (kept_features := options.runs / "features.npz").exists():
        found = {"train_names": names, "test_names": test_names}
        for part, shown in (("train", images), ("test", test_images)):
            found[f"{part}_features"] = frozen_features(build_vit(vit, weights["model"], options), shown)
        write(kept_features, lambda aside: savez(aside, found))
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for file, epochs in zip(options.labels.split(","), options.epochs.split(","), strict=True):
        wanted = sorted(set(Path(file).read_text().split("\n")) - {""})
        listed = np.isin(names, wanted)
        if listed.sum() != len(wanted):
            parser.error(f"expected images of all {len(wanted)} names in {file}, received {listed.sum()}: use our labels.txt")
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
            print(f"{listed.sum()} labels, {start}, rate {rate:g}, layer_decay {layer_decay:g}: {mean:.1%} ± {sd:.1%}"
                  f" of {len(test_classes)}", flush=True)  # fmt: skip


def numbers(text):
    return [float(number) for number in text.split(",")]


def kept(file, work):
    """What `work()` gives, from `file` where that is there already."""
    if not file.exists():
        found = work()
        write(file, partial(torch.save, found) if file.suffix == ".pt" else lambda aside: aside.write_text(json.dumps(found)))
    return torch.load(file) if file.suffix == ".pt" else json.loads(file.read_text())


def write(file, save):
    """The file whole or not at all: `save` writes it beside its place."""
    aside = file.with_suffix(".writing")
    save(aside)
    aside.replace(file)


def savez(path, arrays):
    with path.open("wb") as file:  # given a name alone, NumPy adds a suffix to it
        np.savez(file, **arrays)


def read(folder, folders):
    """`(names, uint8 images (K, 3, S, S), classes)` of the images in these class folders, numbered in their order."""
    files = sorted(file for file in folder.glob("*/*") if file.is_file())
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]).transpose(0, 3, 1, 2)
    classes = np.array([folders.index(file.parent.name) for file in files])
    return np.array([f"{file.parent.name}/{file.name}" for file in files]), images, classes


def normalize(images):
    return (torch.from_numpy(images).float() / 255 - MEAN) / SD


def crops(images, rng, least):
    """Random crops of this share of the area or more, resized, half of them mirrored: float (B, 3, S, S), normalised."""
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


def batches(count, batch, seed):
    """Indices of endless shuffled batches."""
    rng, order = np.random.default_rng(seed), np.array([], int)
    while True:
        while len(order) < batch:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[:batch]
        order = order[batch:]


def set_rate(optimizer, rate, share, warm_up):
    """Linear warm-up and cosine at a share of the run, scaled for each group as MAE's lr_sched does."""
    now = rate * (share / warm_up if share < warm_up else (1 + math.cos(math.pi * (share - warm_up) / (1 - warm_up))) / 2)
    for group in optimizer.param_groups:
        group["lr"] = now * group.get("lr_scale", 1)


def pretrain(mae, images, options):
    """Train for so many minutes: the share of them that is over stands for the steps, unless these are known."""
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
    print(f"MAE of {parameters / 1e6:.2f}M parameters", flush=True)
    steps, seconds, total, unfinished = 0, 0.0, 60 * options.minutes, options.runs / "pretraining.pt"
    if unfinished.exists():  # it goes on from there with other crops than it would have had
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
            rate = batch * steps / seconds
            print(f"step {steps}  loss {float(loss.detach()):.4f}  {rate:.0f} images/s  {seconds / 60:.1f} minutes", flush=True)
        if steps % 2000 == 0:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": steps, "seconds": seconds}
            write(unfinished, partial(torch.save, saved))
    return {"model": model.state_dict(), "steps": steps, "seconds": seconds, "parameters": parameters}


def build_vit(vit, weights, options):
    """MAE's classifier, its encoder pre-trained where there are weights."""
    model = vit.VisionTransformer(
        **SIZE, depth=options.depth, mlp_ratio=4, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        global_pool=True, num_classes=options.classes, drop_path_rate=0.1,
    )  # fmt: skip
    if weights is not None:
        left = model.load_state_dict(weights, strict=False).missing_keys
        assert set(left) == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}, left
        torch.nn.init.trunc_normal_(model.head.weight, std=2e-5)
    return model


def frozen_features(model, images):
    """The mean of the patches' vectors behind the last block: uint8 (K, 3, S, S) -> float32 (K, D)."""
    model.eval()
    model.fc_norm = torch.nn.Identity()  # what the classifier puts on the mean, which nothing has trained
    with torch.inference_mode():
        parts = np.array_split(images, max(1, len(images) // 500))
        return np.concatenate([model.forward_features(normalize(part)).numpy() for part in parts])


def finetune(vit, decay, weights, examples, scored, rate, layer_decay, seed, epochs, options):
    """Top-1 on `scored` after fine-tuning on `examples`, both `(images, classes)`."""
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
    print(f"{len(images)} labels, {'scratch' if weights is None else 'pretrained'}, rate {rate:g}, layer_decay {layer_decay:g},"
          f" seed {seed}: {top1:.1%}", flush=True)  # fmt: skip
    return top1


if __name__ == "__main__":
    main()
