"""Workers that share each step, by the environment's TF_CONFIG: they meet in time, and notice when one of them is lost."""

import atexit
import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Iterator

import keras

from pf_keras import __version__
from pf_keras.errors import UserError, tensorflow_reason
from pf_keras.training.rendezvous import Missing, Stranger, meet
from pf_keras.training.time_limit import time_limit

WAIT_VARIABLE = "PF_KERAS_WAIT"
SILENT_SECONDS = 60  # a process that is not heard of for so long is lost


def wait_seconds() -> int:
    """How long a process waits at its start for the others and for a TPU. Raises UserError for an invalid PF_KERAS_WAIT."""
    text = os.environ.get(WAIT_VARIABLE, "600")
    if not text.isdecimal() or not int(text):
        raise UserError(f"{WAIT_VARIABLE} is {text}, not a number of seconds. Use for example {WAIT_VARIABLE}=600.")
    return int(text)


def workers_of_a_step() -> int:
    """How many processes share a step, this one included, by the environment's TF_CONFIG. Raises UserError for a bad one."""
    if keras.backend.backend() != "tensorflow":
        return 1
    text = os.environ.get("TF_CONFIG", "").strip()
    if not text or text == "{}":
        return 1
    try:
        return len(_addresses(json.loads(text)))
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else f"is not valid: {error}"
        raise UserError(
            f"The environment's TF_CONFIG {reason}. Unset it, or give it a cluster and this process's task, such as "
            '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, "task": {"type": "worker", "index": 0}}.'
        ) from error


def _addresses(content: dict) -> list[str]:
    """The addresses of the workers of a TF_CONFIG, the chief's first. Raises several kinds of errors where it is not valid."""
    if not content.get("cluster"):
        return [""]  # of this process alone
    cluster, task = content["cluster"], content["task"]
    kind, index = task["type"], task["index"]
    if kind not in ("chief", "worker"):
        raise ValueError(f"the task's type is {kind!r}, not chief or worker")
    for job in ("chief", "worker"):
        if not isinstance(cluster.get(job, []), list):
            raise ValueError(f"the {job}s are {cluster[job]!r}, not a list of addresses")
    if not str(index).isdecimal() or int(index) >= len(cluster.get(kind, [])):
        raise ValueError(f"the task is {kind} {index}, but the cluster has {len(cluster.get(kind, []))} of these, from 0")
    addresses = [*cluster.get("chief", []), *cluster.get("worker", [])]
    for address in addresses:
        host, _, port = str(address).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(f"{address!r} is no address HOST:PORT")
    if twice := [address for address in addresses if addresses.count(address) > 1]:
        raise ValueError(f"{twice[0]} is there more than once")
    return addresses


def join_workers():
    """A `MultiWorkerMirroredStrategy` with the workers of TF_CONFIG, once all of them are there.

    Raises:
        UserError: this worker's port is in use, or a worker does not come within `wait_seconds()`.
    """
    import tensorflow as tf
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    content = json.loads(os.environ["TF_CONFIG"])
    cluster, task, wait = content["cluster"], content["task"], wait_seconds()
    require_free_port(cluster[task["type"]][int(task["index"])], "TF_CONFIG")
    jobs = {job: len(cluster[job]) for job in ("chief", "worker") if job in cluster}
    # As MultiWorkerMirroredStrategy configures it, but for the times.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{next(iter(jobs))}/replica:0/task:0",
        cluster_register_timeout_in_ms=1000 * wait,
        heartbeat_timeout_in_ms=1000 * SILENT_SECONDS,
        coordinated_jobs=[CoordinatedJob(name=job, num_tasks=count) for job, count in jobs.items()],
    )
    names = [f"{job} {index}" for job, count in jobs.items() for index in range(count)]
    addresses = [address for job in jobs for address in cluster[job]]
    print(f"waiting for all {len(names)} workers of TF_CONFIG, for {wait} s at most", file=sys.stderr)
    atexit.register(_silence_native_output)  # TensorFlow writes many lines where it ends without the others
    try:
        meet(addresses, names.index(f"{task['type']} {int(task['index'])}"), wait)
        # One that dies now leaves the others in native code, where TensorFlow's own limit does not reach the first of them.
        late = (
            f"The {len(names)} workers of TF_CONFIG met, but did not connect within {wait} s: one of them ended meanwhile. "
            "Start all of them again with the same commands."
        )
        with time_limit(wait, late):
            return tf.distribute.MultiWorkerMirroredStrategy()
    except Stranger as error:
        raise UserError(
            f"The process at {addresses[0]}, {names[0]} of TF_CONFIG, belongs to another run: it has another cluster in its "
            f"TF_CONFIG, or another version than pf_keras {__version__}. Give all workers the same of both."
        ) from error
    except (Missing, tf.errors.OpError, RuntimeError) as error:
        absent = [f"{names[number]} ({addresses[number]})" for number in getattr(error, "numbers", ())]
        raise UserError(
            f"Not all {len(names)} workers of TF_CONFIG came within {wait} s. Missing: {', '.join(absent) or _reason(error)}. "
            f"Start all of them with the same TF_CONFIG but for the task. {WAIT_VARIABLE}=SECONDS changes how long they wait."
        ) from error


def require_free_port(address: str, variable: str) -> None:
    """Check that this process can listen.

    Args:
        address: `host:port` of this process.
        variable: the environment variable that it is from.

    Raises:
        UserError: the port is in use, or is no port.
    """
    port = address.rpartition(":")[2]
    try:
        with socket.create_server(("", int(port))):
            pass
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no port"
        raise UserError(
            f"Cannot listen at {address} of {variable}: {reason}. Stop the process that uses the port, or choose another."
        ) from error


@contextlib.contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Turn TensorFlow's failure in the body into a UserError where workers share a step and one of them is lost."""
    try:
        yield
    except Exception as error:
        if not tensorflow_reason(error) or "Collective ops is aborted" not in str(error) or workers_of_a_step() < 2:
            raise
        lost = sorted(set(re.findall(r"/job:(\w+)/replica:0/task:(\d+)", str(error).partition("unhealthy")[2])))
        who = " and ".join(f"{kind} {index}" for kind, index in lost) or f"Another worker ({_reason(error)})"
        raise UserError(
            f"{who} of TF_CONFIG ended or was not heard of for {SILENT_SECONDS} s, so this one stops. Start all workers again "
            "with the same command to resume from the last checkpoint."
        ) from error


def _silence_native_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _reason(error: Exception) -> str:
    """The line of TensorFlow's message that says what happened."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    telling = [line.partition("aborted by:")[2].strip() for line in lines if "aborted by:" in line] or lines
    return telling[0][:200].rstrip(".")
