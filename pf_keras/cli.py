"""PatchFormer in Keras: pre-train by decoding masked patches, then use what the model learned.

    python main.py --mode=MODE --workdir=DIR [--config=NAME|FILE] [--config.SECTION.FIELD=VALUE ...]
                   [--data=SOURCE] [--tpu=NAME]

An installed package has the same command as `pf-keras`. A mode that reads an earlier run uses the config of that run, with
the fields that the command line changes.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence

from absl import flags

from pf_keras.errors import Stopped, UserError, printable
from pf_keras.quiet import native_output_diverted
from pf_keras.signals import stopping
from pf_keras.training.gpus import grow_memory
from pf_keras.training.lock import is_held, unlock
from pf_keras.training.tpu_connection import check_tpu

# Nothing slow is imported before the flags are read, so that --help answers at once.
MODES = {
    "inspect": "show what a data source holds, before anything is trained on it",
    "pretrain": "learn from unlabelled images by decoding masked patches",
    "reconstruct": "draw what a pre-trained model decodes",
    "finetune": "train a classifier with few labels, from --init=PRETRAIN_WORKDIR or --init=scratch",
    "predict": "answer for any images with a fine-tuned model, as a table and a sheet of pictures",
    "embed": "write the features of any images, their neighbours and a map",
    "evaluate": "score a fine-tuned model, or probe the frozen features of a pre-trained one",
    "sweep": "fine-tune over a grid, choose on held-out images, run the winner with several seeds",
    "export": "write a SavedModel to serve, a .keras file to train further, and an ONNX file",
    "plan": "check whether a config compiles for a TPU and fits, and estimate what it costs",
}
STARTS_A_RUN = ("inspect", "pretrain", "finetune", "sweep", "plan")  # the other modes need a --workdir with a run in it
DEFAULT_CONFIG = "digits"

FLAGS = flags.FLAGS
flags.DEFINE_string("mode", None, f"What to do: {', '.join(MODES)}.")
flags.DEFINE_string("workdir", None, "The directory of the run. Default for a new run: runs/MODE.")
flags.DEFINE_string(
    "config",
    None,
    "A shipped config (digits, cifar10, imagenette64, imagenette, imagenet), or a Python file that defines config; the file "
    "is run as code. Default: the config of the run in --workdir, else of --init, else digits.",
)
flags.DEFINE_string(
    "data",
    None,
    "digits, folder:DIR, csv:FILE, tfrecord:DIR or tfds:NAME. Default: the config's. For evaluate, reconstruct, predict and "
    "embed: other data to use in place of the run's own.",
)
flags.DEFINE_integer("seed", None, "Short for --config.run.seed.")
flags.DEFINE_string("checkpoint_every", None, 'Steps ("500") or minutes ("10min"). Short for --config.run.checkpoint_every.')
flags.DEFINE_string(
    "init",
    "",
    "Where the weights come from: a preset by its name (photos64), its folder or hf://USER/REPOSITORY, or the workdir of a "
    "run. finetune, sweep: a pre-training, or scratch. pretrain: a pre-training to continue from with other settings or data, "
    "or a .weights.h5 or .keras file of a pre-trainer. evaluate, reconstruct, embed, predict: to use in place of a run in the "
    "workdir; predict also takes the folder of an export.",
)
flags.DEFINE_string("tracker", None, "tensorboard, csv, mlflow or wandb. Short for --config.run.tracker.")
flags.DEFINE_string(
    "label_fraction", "1", "The fraction of each class's training images that keep their labels. evaluate takes several."
)
flags.DEFINE_string(
    "label_list", "", "finetune, sweep: a list or CSV file with the names of the training images that keep their labels."
)
flags.DEFINE_string(
    "seeds", "0,1,2", "sweep: the seeds of the final runs. The points of the grid use the first sweep.point_seeds of them."
)
flags.DEFINE_string("tpu", "", "The name of a Cloud TPU, local (on a TPU VM) or grpc://ADDRESS. Default: GPUs, else the CPU.")
flags.DEFINE_string("topology", "v3-32", "plan: the TPU slice, such as v3-32, v4-8, v5litepod-4, v5p-8 or v6e-4.")
flags.DEFINE_string("training", "both", "plan: pretrain, finetune or both.")
flags.DEFINE_bool("largest_batch", False, "plan: also search for the largest batch that fits. It compiles up to 6 more times.")
flags.DEFINE_enum(
    "split",
    None,
    ["train", "validation"],
    "predict, embed: which images of the data to answer for. Default: validation where the data have both, else all.",
)
flags.DEFINE_string("checkpoint", "", "reconstruct: a step of the workdir's checkpoints. Default: the newest.")

SHORTHANDS = {"data": "data.source", "seed": "run.seed", "checkpoint_every": "run.checkpoint_every", "tracker": "run.tracker"}
OTHER_DATA = ("evaluate", "reconstruct", "predict", "embed")  # modes whose --data is not the run's own
READ_BY = {  # the modes that read a flag; every mode reads the flags that are not listed
    **dict.fromkeys(("config", "seed"), [mode for mode in MODES if mode != "export"]),  # export takes a run as it is
    "data": [mode for mode in MODES if mode not in ("export", "plan")],
    "tpu": [mode for mode in MODES if mode not in ("inspect", "export", "plan")],
    "checkpoint_every": ["pretrain", "finetune", "sweep"],
    "tracker": ["pretrain", "finetune", "sweep"],
    "init": ["pretrain", "finetune", "sweep", "predict", "evaluate", "reconstruct", "embed"],
    "label_fraction": ["finetune", "evaluate", "sweep"],
    "label_list": ["finetune", "sweep"],
    "seeds": ["sweep"],
    **dict.fromkeys(("topology", "training", "largest_batch"), ["plan"]),
    "split": ["predict", "embed"],
    "checkpoint": ["reconstruct"],
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv`, with the program's name first (default: `sys.argv`). Returns the exit code.

    The result is printed as one line of JSON on standard output. A user's mistake is one line on standard error and exit
    code 2. A run stopped by a signal exits with 128 plus its number.
    """
    try:
        result = execute(list(sys.argv if argv is None else argv))
    except (flags.Error, UserError) as error:
        return fail(error)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    print(json.dumps(result))
    return 0


def execute(argv: list[str]) -> dict:
    """Run the command line `argv`, with the program's name first. Returns its result.

    Raises:
        flags.Error: a flag is wrong.
        UserError: a user's mistake.
        Stopped: by a signal.
    """
    began, command, ended = time.time(), None, "ended by an unexpected error"
    overrides = read_flags(argv)
    check_flags(overrides)
    try:
        with native_output_diverted():
            try:
                import_backend()
                with stopping():
                    from pf_keras.training.workers import naming_lost_workers

                    request = read_request(overrides)
                    command = announce(request.workdir, argv, began)
                    with naming_lost_workers():
                        result = importlib.import_module(f"pf_keras.tasks.{FLAGS.mode}").run(request)
                ended = "done"
            except (UserError, Stopped) as error:
                ended = one_line(error)
                raise
            finally:
                if command:
                    leave_record(command, ended)
    finally:
        unlock()
    return result


def announce(workdir: str, argv: Sequence[str], began: float):
    """The `Command` that works in `workdir`, which it writes down there as soon as nothing can refuse it."""
    from pf_keras.commands_log import Command, set_command

    command = Command(argv, FLAGS.mode, workdir, began)
    set_command(command)
    return command


def leave_record(command, ended: str) -> None:
    """Write to the `commands.jsonl` of the workdir that a command ends now, and write `report.html`. Warns where that fails.

    A command that was refused leaves nothing, and neither does a process that does not write the files of its run.

    Args:
        command: of `announce`.
        ended: `done`, or why the command ended.
    """
    try:
        with stopping():
            from pf_keras.commands_log import set_command
            from pf_keras.report import write_report
            from pf_keras.training.devices import is_chief

            set_command(None)
            place = command.workdir.path
            worked = is_held(place) if FLAGS.mode in STARTS_A_RUN else ended == "done" and is_chief()
            if not (worked or command.line):
                return
            command.end(ended)
            report = write_report(place)
        if report and ended == "done":
            print(f"report: {report}", file=sys.stderr)
    except (Exception, Stopped) as error:  # the command itself has ended as it did
        with contextlib.suppress(OSError):
            print(f"warning: the report was not written: {one_line(error)}", file=sys.stderr)


def import_backend() -> None:
    """Import Keras and TensorFlow, which reads the data under either backend.

    Ctrl-C ends the process during the import, because an exception there can be lost in a callback of the garbage
    collector. Later, `stopping` handles it.
    """
    if FLAGS.tpu:
        check_tpu(FLAGS.tpu)
    else:  # with libtpu installed, JAX would ask a metadata server for minutes
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    grow_memory()  # for every mode, and for the processes that it starts
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nohup ignores it
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # whatever ~/.keras/keras.json says
    try:
        with without_collection():
            importlib.import_module("tensorflow")
            keras = importlib.import_module("keras")
        keras.config.set_image_data_format("channels_last")  # whatever ~/.keras/keras.json says
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def without_collection():
    """Import without the garbage collector, which would look again and again at objects that all stay.

    It never looks at them later, nor when the process ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
    atexit.register(gc.freeze)


def read_flags(argv: list[str]) -> dict[str, str]:
    """Parse `argv` into FLAGS. Returns the config fields that it sets, as `{"section.field": "text"}`."""
    overrides, rest = {}, []
    for argument in argv:
        if argument.lstrip("-").startswith("config.") and argument.startswith("-"):
            name, equals, value = argument.lstrip("-").removeprefix("config.").partition("=")
            if not equals:
                raise flags.Error(f"{argument} has no value. Write --config.{name}=VALUE.")
            overrides[name] = value
        else:
            rest.append(argument)
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in rest):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as for `pf-keras --help | head`
        modes = "\n".join(f"    {mode:<12} {does}" for mode, does in MODES.items())
        print(f"{__doc__}\nThe modes:\n{modes}\n\nThe flags:\n{FLAGS.module_help(sys.modules[__name__])}")
        sys.exit(0)
    for flag in FLAGS.get_flags_for_module(sys.modules[__name__]):
        flag.unparse()  # in a notebook, a command must not keep the flags of an earlier command
    unknown = FLAGS(rest)[1:]
    if unknown:
        raise flags.Error(f"{unknown[0]!r} is not a flag. Write --NAME=VALUE; --help lists the flags.")
    for flag, field in SHORTHANDS.items():
        if FLAGS[flag].value is not None and not (flag == "data" and FLAGS.mode in OTHER_DATA):
            value = str(FLAGS[flag].value)
            if overrides.setdefault(field, value) != value:
                both = f"--{flag}={value} and --config.{field}={overrides[field]}"
                raise flags.Error(f"{both} contradict each other. Use one of them.")
    return overrides


def check_flags(overrides: dict[str, str]) -> None:
    """Raises flags.Error for an unknown mode or backend, and for a flag that is empty or that the mode does not read."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in ("tensorflow", "jax"):
        raise flags.Error(f"KERAS_BACKEND is {backend}. Use tensorflow or jax.")
    if FLAGS.mode is None:
        raise flags.Error(f"--mode is missing. Use one of {', '.join(MODES)}; --help explains them.")
    if FLAGS.mode not in MODES:
        raise flags.Error(f"There is no --mode={FLAGS.mode}. Use one of {', '.join(MODES)}; --help explains them.")
    for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__]):
        if flag.present and flag.value == "":  # perhaps a shell variable that is not set
            raise flags.Error(f"--{flag.name} has no value. Write --{flag.name}=VALUE, or leave the flag out.")
    given = [(name, f"--{name}") for name in READ_BY if FLAGS[name].present]
    for name, shown in [*given, *(("config", f"--config.{field}") for field in overrides)]:
        if FLAGS.mode not in READ_BY[name]:
            readers = ", ".join(READ_BY[name])
            raise flags.Error(f"--mode={FLAGS.mode} does not use {shown}, only {readers}. Leave it out.")


def read_request(overrides: dict[str, str]):
    """The task's `Request`. Raises UserError for an invalid config and a missing workdir."""
    from pf_keras.request import Request

    if not FLAGS.workdir and FLAGS.mode not in STARTS_A_RUN and not FLAGS.init:
        raise UserError(f"--mode={FLAGS.mode} reads an earlier run. Name its directory with --workdir=DIR.")
    workdir = FLAGS.workdir or f"runs/{FLAGS.mode}"
    return Request(
        workdir=workdir,
        config=read_config(workdir).override(overrides),
        other_data=(FLAGS.data or "") if FLAGS.mode in OTHER_DATA else "",
        checkpoint=FLAGS.checkpoint,
        init=FLAGS.init,
        label_fractions=read_numbers("label_fraction", float),
        label_list=FLAGS.label_list,
        seeds=read_numbers("seeds", int),
        tpu=FLAGS.tpu,
        topology=FLAGS.topology,
        training=FLAGS.training,
        largest_batch=FLAGS.largest_batch,
        split=FLAGS.split or "",
    )


def read_numbers(flag: str, kind: type) -> tuple:
    """The numbers of a flag with a list such as 0.01,0.1."""
    try:
        return tuple(kind(text) for text in FLAGS[flag].value.split(","))
    except ValueError as error:
        raise UserError(f"--{flag}={FLAGS[flag].value} is not a list of numbers. Write for example 1 or 0,1.") from error


def read_config(workdir: str):
    """The config to start from: that of --config, else of the run in the workdir, else of --init, else the default."""
    from pf_keras.config import load_config
    from pf_keras.presets import find
    from pf_keras.training.identity import earlier_run, fields_of_version_0_1, find_run
    from pf_keras.training.workdir import Workdir

    if FLAGS.config is not None:  # the command that began a run resumes it, after an update too
        return load_config(FLAGS.config).override(fields_of_version_0_1(Workdir(workdir)))
    run = find_run(Workdir(workdir))
    if run and (run.mode == FLAGS.mode if FLAGS.mode in STARTS_A_RUN else not FLAGS.init):
        return run.config
    if FLAGS.init not in ("", "scratch"):
        start = find(FLAGS.init)
        if FLAGS.mode == "pretrain":
            from pf_keras.training.weights_file import is_weights_file, run_of

            start = run_of(start) if is_weights_file(start) else start
        if start and FLAGS.mode in STARTS_A_RUN:
            return earlier_run(start, "pretrain")[1].config
        if start and (run := find_run(Workdir(start))):  # predict also takes an export, which has no config
            return run.config
    return load_config(DEFAULT_CONFIG)


def fail(message: object) -> int:
    """Print a message as one line on standard error, and return exit code 2."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    return 2


def one_line(message: object) -> str:
    """A message as one line, because file names may contain line breaks and terminal escape codes."""
    line = " ".join(str(message).split())
    return printable(line)


if __name__ == "__main__":
    sys.exit(main())
