"""PatchFormer in Keras: pre-train by decoding masked patches, then use what was learned.

    python main.py --mode=MODE --workdir=DIR [--config=experiments/NAME.py] [--config.SECTION.FIELD=VALUE ...]
                   [--data=SOURCE] [--tpu=NAME]

A mode that reads an earlier run takes that run's config, but for what the command line changes.

The modes:
    pretrain     learn from unlabelled images by decoding masked patches
    reconstruct  draw what a pre-trained workdir decodes
    finetune     a classifier from few labels, from --init=PRETRAIN_WORKDIR or --init=scratch
    evaluate     score a fine-tuned workdir, or probe the frozen features of a pre-trained one
    sweep        fine-tune over a grid, choose on held-out images, report the winner over several seeds
    export       a SavedModel to serve and a .keras file to train further, of a fine-tuned or pre-trained workdir
    plan         say whether a config compiles for a TPU and fits, how long it takes and what it needs
"""

import importlib
import json
import os
import signal
import sys

from absl import flags

# Nothing else is imported before the flags are read: --help answers at once.
MODES = [line.split()[0] for line in __doc__.split("The modes:\n")[1].splitlines() if line.strip()]
NEW_RUNS = ("pretrain", "finetune", "sweep", "plan")  # the others read an earlier run

FLAGS = flags.FLAGS
flags.DEFINE_string("mode", None, f"What to do: {', '.join(MODES)}.")
flags.DEFINE_string("workdir", None, "The directory of the run. Default for a new run: runs/MODE.")
flags.DEFINE_string(
    "config",
    None,
    "A Python file that defines config; it is run as code. Default: that of the run in --workdir, else of --init, else "
    "the digits'.",
)
flags.DEFINE_string("data", None, "digits, folder:DIR, tfrecord:DIR or tfds:NAME. Default: the config's.")
flags.DEFINE_integer("seed", None, "Shorthand for --config.run.seed.")
flags.DEFINE_string("checkpoint_every", None, 'Steps ("500") or minutes ("10min"); --config.run.checkpoint_every.')
flags.DEFINE_string("init", "", "finetune, sweep: a pre-training workdir, or scratch.")
flags.DEFINE_string(
    "label_fraction", "1", "The share of each class's training images whose labels are used; evaluate takes several."
)
flags.DEFINE_string("label_list", "", "A file with the names of the training images whose labels are used.")
flags.DEFINE_string("seeds", "0,1,2", "sweep: the seeds of each point of the grid and of the winner.")
flags.DEFINE_string("tpu", "", "A Cloud TPU's name, local (on a TPU VM) or grpc://ADDRESS. Default: GPUs, else CPU.")
flags.DEFINE_string("topology", "v3-32", "plan: the TPU slice, such as v3-32, v4-8, v5litepod-4, v5p-8 or v6e-4.")
flags.DEFINE_string("checkpoint", "", "reconstruct: a step of the workdir's checkpoints. Default: the newest.")

SHORTHANDS = {"data": "data.source", "seed": "run.seed", "checkpoint_every": "run.checkpoint_every"}
READ_BY = {  # the modes that read a flag; all read those that are not here
    **dict.fromkeys(("config", "seed"), [mode for mode in MODES if mode != "export"]),  # a run is exported as it is
    **dict.fromkeys(("data", "tpu"), [mode for mode in MODES if mode not in ("export", "plan")]),
    "checkpoint_every": ["pretrain", "finetune", "sweep"],
    "init": ["finetune", "sweep"],
    "label_fraction": ["finetune", "evaluate", "sweep"],
    "label_list": ["finetune", "sweep"],
    "seeds": ["sweep"],
    "topology": ["plan"],
    "checkpoint": ["reconstruct"],
}


def main(argv):
    try:
        overrides = read_flags(argv)
        check_mode(overrides)
    except flags.Error as error:
        return fail(error)
    load_quietly()

    from pf_keras.errors import Stopped, UserError
    from pf_keras.signals import stopping

    try:
        with stopping():
            request = read_request(overrides)
            result = importlib.import_module(f"pf_keras.tasks.{FLAGS.mode}").run(request)
    except UserError as error:
        return fail(error)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    print(json.dumps(result))
    return 0


def load_quietly():
    """Import Keras and its backend without the notes that their native libraries write as they load.

    Those come before any log level is read, and would bury the one line that an error is to be. Ctrl-C ends the process
    meanwhile: as an exception it could be lost in a callback of the garbage collector. Later `stopping` takes it.
    """
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so where nohup has it ignored
    if raises:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not FLAGS.tpu:  # where libtpu is installed for --mode=plan, JAX would ask for a TPU's metadata for minutes
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    sys.stderr.flush()
    shown, hidden = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(hidden, 2)
    try:
        importlib.import_module("pf_keras")
        importlib.import_module("tensorflow")  # the input pipeline's, whatever the backend
        # The models' layout, whatever ~/.keras/keras.json says.
        importlib.import_module("keras").config.set_image_data_format("channels_last")
    finally:
        if raises:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(shown, 2)
        os.close(shown)
        os.close(hidden)


def read_flags(argv):
    """Parse `argv` into FLAGS; returns the `--config.SECTION.FIELD=VALUE` among it as a dict."""
    overrides, rest = {}, []
    for argument in argv:
        if argument.lstrip("-").startswith("config.") and argument.startswith("-"):
            name, equals, value = argument.lstrip("-").removeprefix("config.").partition("=")
            if not equals:
                raise flags.Error(f"expected {argument}=VALUE, received no value: write --config.{name}=VALUE")
            overrides[name] = value
        else:
            rest.append(argument)
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in rest):
        print(__doc__ + "\nThe flags:\n" + FLAGS.module_help(sys.modules[__name__]))
        sys.exit(0)
    unknown = FLAGS(rest)[1:]
    if unknown:
        raise flags.Error(f"expected flags only, received {unknown[0]!r}: write --NAME=VALUE")
    for flag, field in SHORTHANDS.items():
        if FLAGS[flag].value is not None:
            value = str(FLAGS[flag].value)
            if overrides.setdefault(field, value) != value:
                both = f"--{flag}={value} and --config.{field}={overrides[field]}"
                raise flags.Error(f"expected one of the two, received {both}: leave one out")
    return overrides


def check_mode(overrides):
    """Raises flags.Error for an unknown mode or backend, and for a flag that the mode does not read."""
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # whatever ~/.keras/keras.json says
    if backend not in ("tensorflow", "jax"):
        raise flags.Error(f"expected KERAS_BACKEND to be tensorflow or jax, received {backend}: set one of these")
    if FLAGS.mode not in MODES:
        raise flags.Error(f"expected --mode to be one of {', '.join(MODES)}, received {FLAGS.mode}: see --help")
    for name in FLAGS.get_key_flags_for_module(sys.modules[__name__]):
        if name.present and name.value == "":  # a variable of the shell that is not set
            raise flags.Error(f"expected --{name.name}=VALUE, received no value: give one, or leave the flag out")
    given = [(name, f"--{name}") for name in READ_BY if FLAGS[name].present]
    for name, shown in [*given, *(("config", f"--config.{field}") for field in overrides)]:
        if FLAGS.mode not in READ_BY[name]:
            readers = ", ".join(READ_BY[name])
            raise flags.Error(f"expected {shown} with --mode={readers} alone, received it with {FLAGS.mode}: leave it out")


def read_request(overrides):
    """The task's `Request`. Raises UserError for a config that is none or a workdir that is missing."""
    from pf_keras.errors import UserError
    from pf_keras.tasks import Request

    if not FLAGS.workdir and FLAGS.mode not in NEW_RUNS:
        raise UserError(f"expected --workdir to name an earlier run for --mode={FLAGS.mode}, received none: add it")
    workdir = FLAGS.workdir or f"runs/{FLAGS.mode}"
    return Request(
        workdir=workdir,
        config=read_config(workdir).override(overrides),
        checkpoint=FLAGS.checkpoint,
        init=FLAGS.init,
        label_fractions=numbers("label_fraction", float),
        label_list=FLAGS.label_list,
        seeds=numbers("seeds", int),
        tpu=FLAGS.tpu,
        topology=FLAGS.topology,
    )


def numbers(flag, kind):
    """The numbers of a flag that holds a list of them, such as 0.01,0.1."""
    from pf_keras.errors import UserError

    try:
        return tuple(kind(text) for text in FLAGS[flag].value.split(","))
    except ValueError as error:
        raise UserError(f"expected --{flag} as numbers such as 1 or 0,1, received {FLAGS[flag].value}") from error


def read_config(workdir):
    """The config to start from: of --config, else of the run in the workdir, else of the pre-training of --init, else the
    digits'."""
    from pf_keras.config import load_config
    from pf_keras.errors import reading
    from pf_keras.training.workdir import Workdir

    begun = Workdir(workdir)
    with reading(workdir):
        there = begun.config_file.exists()  # in any case: a place that cannot be reached is to be known now
        if FLAGS.config is None and there and (begun.mode() == FLAGS.mode or FLAGS.mode not in NEW_RUNS):
            return begun.config()
    if FLAGS.config is None and FLAGS.init not in ("", "scratch"):
        return Workdir.of_run(FLAGS.init, "pretrain").config()
    return load_config(FLAGS.config or os.path.join(os.path.dirname(__file__), "experiments", "digits.py"))


def fail(message):
    line = " ".join(str(message).split())  # file names may hold line breaks, and commands to the terminal
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
