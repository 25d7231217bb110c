"""`--mode=reconstruct`: draw what a pre-trained model decodes, for any checkpoint and any images."""

from dataclasses import replace

from pf_keras.data.corrupt import naming_corrupt_images
from pf_keras.evaluation.reconstruction import draw, examples
from pf_keras.noise import pretrain_noise
from pf_keras.request import Request
from pf_keras.training.data_record import open_other_data, open_run_data
from pf_keras.training.devices import open_devices
from pf_keras.training.identity import earlier_run
from pf_keras.training.weights import load_pretrainer


def run(request: Request) -> dict:
    """Draw `figures/reconstruction.png` in `request.workdir`. Returns the content of `reconstruct.json`.

    Raises:
        UserError: the config has another model than the run, or there is no such checkpoint.
    """
    earlier, pretraining = earlier_run(request.workdir, "pretrain")
    config = request.config
    devices = open_devices(config.run.precision, request.tpu)
    with devices.scope():
        model, checkpoint = load_pretrainer(earlier, pretraining, config, request.checkpoint)
    if request.other_data:
        data = open_other_data(replace(config.data, source=request.other_data), evaluation_only=True, labels=False)
    else:
        data = open_run_data(earlier, config.data, labels=False)
        data.check(earlier, pretraining.config.data.source, config.data.source)
    with naming_corrupt_images(data.source):
        batch = examples(data.source.validation, config, pretrain_noise(config))
    workdir = devices.workdir(request.workdir)
    picture = draw(model, batch, workdir.folder("figures") / "reconstruction.png")
    result = {"step": checkpoint.step, "data": request.other_data or config.data.source, "figure": picture}
    workdir.write_json(workdir.path / "reconstruct.json", result)
    return result
