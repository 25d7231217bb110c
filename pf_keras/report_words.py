"""The words of a report: what the numbers, curves and pictures of a workdir are."""

from collections.abc import Iterator

from pf_keras.figures_answers import HOTTEST
from pf_keras.pages import percent, value_text

TITLES = {
    "pretrain": "Pre-training on",
    "finetune": "Fine-tuning on",
    "sweep": "Sweep of fine-tunings on",
    "plan": "Plan for a TPU:",
    "": "Several runs",
}
MEANINGS = {  # of what result.json has
    "steps": "updates of the weights",
    "loss": "cross-entropy of the decoded levels of validation images, in nats per pixel; lower is better",
    "marginal_entropy": "loss of a predictor that knows only how often each level occurs",
    "loss_ratio": "loss divided by marginal_entropy: 1 is guessing by frequency, 0 is perfect",
    "parameters": "numbers in the weights of the model",
    "images_per_second": "throughput of the training, the median over log intervals",
    "validation_images": "images that were scored; no training saw them",
    "bad_images": "corrupt images that were left out",
    "top1": "fraction of images for which the first answer is right",
    "top5": "fraction of images for which one of the first five answers is right",
    "majority_top1": "top1 of always answering the most frequent class",
    "holdout_top1": "top1 of the chosen checkpoint on the held-out labelled images",
    "holdout_images": "labelled images that were held out to choose the checkpoint",
    "best_step": "step of the checkpoint that was chosen and scored",
    "stopped_at": "step at which the training ended early, because no score was better for long",
    "images": "images that were looked at",
    "labels": "labelled images of the run, also those held out",
    "train_images": "labelled images that the training used",
    "label_fraction": "fraction of each class's training images that keep their labels",
    "init": "where the weights came from",
    "init_sha256": "digest of the weights of the preset",
    "init_step": "step of the pre-training that the weights came from",
    "seed": "number that all random choices depend on",
    "seeds": "runs of each winner",
    "points": "points of the grid",
    "labelled": "images that have a label which the model knows",
    "mistakes": "labelled images with a wrong first answer",
    "unreadable": "files that could not be read",
    "knn_top1": "top1 of nearest neighbours on the frozen features, in the last probe",
    "linear_top1": "top1 of a linear classifier on the frozen features, in the last probe",
    "probe_step": "step of the last probe",
    "probe_labels": "labelled images that the probes were fitted to",
    "probe_images": "labelled images that the probes were scored on",
    "width": "numbers in the vector of an image",
    "near_duplicates": "pairs of images that look alike",
    "compared": "images among which pairs were looked for",
    "on_map": "images on the map",
}
CURVES = {  # the metrics of each chart, with the names of their lines
    "Loss": {"loss": "training loss"},
    "Top-1 accuracy": {
        "accuracy": "training images",
        "validation_top1": "validation images, only watched",
        "holdout_top1": "held-out labelled images",
    },
    "Top-1 accuracy of probes": {"knn_top1": "kNN", "linear_top1": "linear probe"},
    "Learning rate": {"learning_rate": "learning rate"},
    "Norm of the gradient": {"gradient_norm": "before clipping"},
}
CAPTIONS = {  # of pictures by their names, in the order in which a section shows them
    "reconstruction": "Validation images, what the model sees of them, what it decodes, and the truth. The visible patches of "
    "the decoded pictures are copied from the truth.",
    "confusion": "A row is a true class, and a column is an answer. A dark cell is a large fraction of its row.",
    "neighbours": "Images and the images that are most like them, by their features.",
    "duplicates": "Pairs of images that look alike.",
    "map": "A map of the images. Images with similar features are close to each other.",
    "mistakes": "Wrong answers, the most certain first.",
    "certain": "The most certain and the least certain answers of each class.",
    "attention": "What the model looks at: how much its pooling attends to each patch. Black is nothing, and the brightest "
    f"colour is {HOTTEST} times the mean or more.",
}
PROBES = {"linear": "linear probe", "knn": "kNN"}
FEATURES = {"pretrained": "pre-trained features", "untrained": "untrained network", "pixels": "raw pixels"}
STARTS = {"pretrained": "from pre-trained weights", "scratch": "from scratch"}


def facts(values: dict) -> Iterator[dict]:
    """A table of single values, each with its meaning where it is known."""
    rows = [
        (name, fact_text(name, value), MEANINGS.get(name, ""))
        for name, value in values.items()
        if value is None or isinstance(value, bool | int | float | str)
    ]
    if rows:
        yield {"kind": "facts", "rows": rows}


def fact_text(name: str, value: object) -> str:
    """A value of a result as text. Accuracies are in percent."""
    return percent(value) if isinstance(value, float) and "top" in name else value_text(value)


def words(name: str) -> str:
    """The name of a file or mode as words."""
    return name.replace("_", " ").replace("-", " ").capitalize()
