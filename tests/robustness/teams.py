"""Workers on this machine that train together, each in a process of its own."""

import json
import socket

from tests.robustness.runs import Run

SHARED = {"pretrain.batch": "16", "pretrain.steps": "4", "run.log_every": "2", "run.eval_batch": "32", "model.dropout": "0"}


def free_ports(count):
    """Ports of this machine that nothing uses."""
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("localhost", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


class Team:
    """Workers that share each step, by TF_CONFIG.

    Args:
        workdir: of the run.
        count: how many workers there are.
        wait: how many seconds they wait for each other.
    """

    def __init__(self, workdir, count=2, wait=240):
        self.workdir, self.wait = workdir, wait
        self.addresses = [f"localhost:{port}" for port in free_ports(count)]

    def start(self, index, fields=None, name="", **options):
        """Start a worker. Returns its `Run`. `name` tells its output from that of an earlier start."""
        task = {"cluster": {"worker": self.addresses}, "task": {"type": "worker", "index": index}}
        environment = {"TF_CONFIG": json.dumps(task), "PF_KERAS_WAIT": str(self.wait)}
        stderr_file = self.workdir.with_name(f"{self.workdir.name}-worker{index}{name}")
        return Run(self.workdir, {**SHARED, **(fields or {})}, stderr_file=stderr_file, environment=environment, **options)
