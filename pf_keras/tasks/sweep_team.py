"""The chief of a shared sweep and its workers find each other in time, and notice when the other one is lost.

A worker asks the chief every few seconds for the grid, whose mark tells one start of the chief from another, and for its own
point. So each hears of the other. Whoever loses the other ends as at SIGTERM, which saves the run that it is at.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import keras_tuner

from pf_keras.errors import Stopped, UserError
from pf_keras.training.lock import unlock
from pf_keras.training.workers import SILENT_SECONDS, WAIT_VARIABLE, require_free_port, wait_seconds

PING_SECONDS = 5
MARK = "chief_started"
AGAIN = "Finished points are kept: start the chief and the workers again with the same commands to resume."
VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def check_team() -> str:
    """The name of this process in a shared sweep, `chief` where it sweeps alone.

    Raises:
        UserError: some of keras-tuner's variables are missing, or the port of the chief is in use.
    """
    given = [name for name in VARIABLES if os.environ.get(name)]
    if not given:
        return "chief"
    if missing := [name for name in VARIABLES if name not in given]:
        raise UserError(f"{given[0]} is set, but not {' and '.join(missing)}. Set all of {', '.join(VARIABLES)}, or none.")
    name = os.environ[VARIABLES[0]]
    wait_seconds()
    if "chief" in name:
        require_free_port(address(), " and ".join(VARIABLES[1:]))
    return name


def shared() -> bool:
    """Whether several processes share the sweep."""
    return bool(os.environ.get(VARIABLES[1]))


def address() -> str:
    """The address of the chief."""
    return f"{os.environ[VARIABLES[1]]}:{os.environ[VARIABLES[2]]}"


class Oracle(keras_tuner.oracles.GridSearchOracle):
    """The chief's record of the grid, which remembers when it heard of each worker."""

    def __init__(self, **options):
        super().__init__(**options)
        self.hyperparameters.Fixed(MARK, uuid.uuid4().hex)
        self.heard = {}

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str):
        self.heard[tuner_id] = time.monotonic()
        return super().create_trial(tuner_id)

    def get_trial(self, trial_id: str):
        for tuner_id, trial in list(self.ongoing_trials.items()):
            if trial.trial_id == trial_id:
                self.heard[tuner_id] = time.monotonic()
        return super().get_trial(trial_id)


class Watch:
    """Watches the others of a shared sweep in a thread, and stops this process where they are lost."""

    def __init__(self):
        self.lost, self.point, self._done = "", None, threading.Event()

    @contextlib.contextmanager
    def watching(self, oracle: Oracle, chief: bool) -> Iterator[None]:
        """Watch during the body.

        Args:
            oracle: of this process, which the chief alone uses.
            chief: whether this process is the chief.

        Raises:
            UserError: the chief is lost, or all workers with a point are.
        """
        if not shared():
            yield
            return
        import grpc
        from keras_tuner.src.distribute import oracle_client

        oracle_client.TIMEOUT = SILENT_SECONDS  # an hour otherwise
        client = oracle if chief else self._find_chief(oracle, oracle_client, grpc)
        look = self._workers_lost if chief else self._chief_lost
        threading.Thread(target=self._look, args=(look(client),), daemon=True).start()
        try:
            yield
        except Stopped:
            if not self.lost:
                raise
            unlock()
            raise UserError(self.lost) from None
        except grpc.RpcError as error:
            raise UserError(f"The chief of the sweep at {address()} does not answer ({error.code().name}). {AGAIN}") from error
        except RuntimeError as error:
            if not chief or "bind" not in str(error):
                raise
            raise UserError(f"The chief of the sweep cannot listen at {address()}. Check {VARIABLES[1]}.") from error
        finally:
            self._done.set()

    def _find_chief(self, oracle: Oracle, oracle_client, grpc):
        wait = wait_seconds()
        print(f"waiting for the chief of the sweep at {address()}, for {wait} s at most", file=sys.stderr)
        with grpc.insecure_channel(address()) as channel:
            try:
                grpc.channel_ready_future(channel).result(wait)
            except grpc.FutureTimeoutError:
                raise UserError(
                    f"No chief of the sweep answers at {address()} within {wait} s. Start it with {VARIABLES[0]}=chief and the "
                    f"same address. {WAIT_VARIABLE}=SECONDS changes how long a worker waits."
                ) from None
        return oracle_client.OracleClient(oracle)

    def _look(self, looks: Iterator[str]) -> None:
        while not self._done.is_set():
            lost = next(looks)
            if lost and not self._done.is_set():
                self.lost = lost
                os.kill(os.getpid(), signal.SIGTERM)
                return
            self._done.wait(PING_SECONDS)

    def _chief_lost(self, client) -> Iterator[str]:
        """What a worker says of its chief, at each look. Empty while the chief is there."""
        import grpc

        mark = None
        while True:
            lost = ""
            try:
                now = client.get_space().get(MARK)
                mark = mark or now
                if now != mark:
                    lost = f"The chief of the sweep at {address()} was started again, and does not know of this worker. {AGAIN}"
                elif point := self.point:
                    client.get_trial(point)
            except grpc.RpcError:
                lost = f"The chief of the sweep at {address()} has not answered for {SILENT_SECONDS} s. {AGAIN}"
            yield lost

    def _workers_lost(self, oracle: Oracle) -> Iterator[str]:
        """What the chief says of its workers, at each look. Empty while one of them is at a point or asks for one."""
        wait, began, named, before = wait_seconds(), time.monotonic(), set(), False
        print(f"the chief of the sweep waits for workers at {address()}, for {wait} s at most", file=sys.stderr)
        while True:
            now, lost = time.monotonic(), ""
            busy = set(oracle.ongoing_trials)
            silent = {name for name in busy if now - oracle.heard[name] > SILENT_SECONDS}
            for name in sorted(silent - named):
                print(
                    f"warning: {name} has not been heard of for {SILENT_SECONDS} s. Started again under this name, it resumes "
                    "its point.",
                    file=sys.stderr,
                )
            named = silent
            stuck = bool(busy) and silent == busy
            if stuck and before:  # twice, because a worker between two points has none
                who = " and ".join(sorted(silent))
                lost = f"The sweep waits for {who} alone, not heard of for {SILENT_SECONDS} s. {AGAIN}"
            elif not oracle.heard and now - began > wait:
                lost = (
                    f"No worker came to the chief of the sweep at {address()} within {wait} s. Start workers with "
                    f"{VARIABLES[0]}=worker0, worker1, …. {WAIT_VARIABLE}=SECONDS changes how long the chief waits."
                )
            before = stuck
            yield lost
