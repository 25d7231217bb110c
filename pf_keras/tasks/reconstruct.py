"""`--mode=reconstruct`: draw what a pre-trained model decodes, for any checkpoint and any images."""

from pf_keras.data.corrupt import naming_corrupt_images
from pf_keras.evaluation.attention import draw_targets
from pf_keras.evaluation.reconstruction import draw, examples
from pf_keras.noise import pretrain_noise
from pf_keras.request import Request
from pf_keras.training.data_record import open_earlier_data, refuse_workdir_among_images
from pf_keras.training.devices import open_devices
from pf_keras.training.weights import load_pretrainer, start_of
from pf_keras.training.workdir import Workdir, open_workdir


def run(request: Request) -> dict:
    """Draw `reconstruction.png` and `attention.png` in `request.workdir/figures`. Returns the content of `reconstruct.json`.

    Raises:
        UserError: the config has another model than the run, or there is no such checkpoint.
    """
    start, pretraining = start_of(request.init or request.workdir, "pretrain")
    config = request.config
    devices = open_devices(config.run.precision, request.tpu)
    with devices.scope():
        model, checkpoint = load_pretrainer(start, pretraining, config, request.checkpoint)
    own, now = pretraining.config.data, config.data
    data = open_earlier_data(start, own, now, request.other_data, labels=False)
    refuse_workdir_among_images(Workdir(request.workdir), data.source)
    config = data.reading(config)
    with naming_corrupt_images(data.source):
        batch = examples(data.source.validation, config, pretrain_noise(config))
    workdir = open_workdir(request.workdir, devices.chief)
    picture = workdir.folder("figures") / "reconstruction.png"
    attention = picture.with_name("attention.png")
    answer = workdir.path / "reconstruct.json"
    workdir.remove(answer, attention)
    draw(model, batch, picture)
    draw_targets(model, batch, attention)
    result = {
        "step": checkpoint.step,
        "data": request.other_data or config.data.source,
        "figure": str(picture),
        "attention": str(attention),
    }
    workdir.write_json(answer, result)
    return result
