"""What is measured while a model trains: to watch it, or to choose the best checkpoint and the end of the training.

A monitor measures at the end of a log interval. Its numbers go to `metrics.jsonl`, the progress and the tracker like the loss.
"""

from collections.abc import Callable, Sequence

from pf_keras.training.averaging import averaged_weights
from pf_keras.training.callbacks import RunCallback, require_finite
from pf_keras.training.checkpoint import save_checkpoint
from pf_keras.training.workdir import Workdir

HOLDOUT = "holdout_top1"


class Monitor(RunCallback):
    """Measures every so many steps and after the last one, with the averaged weights where there are some.

    Args:
        measure: returns numbers by the names they are logged under. It must not change the model.
        every: steps between two measurements, a multiple of `run.log_every`.
        steps: of the whole training.
    """

    ended = False  # whether the training is to end before its last step

    def __init__(self, measure: Callable[[], dict[str, float]], every: int, steps: int):
        super().__init__()
        self.measure, self.every, self.steps = measure, every, steps

    def resume(self, lines: Sequence[dict]) -> None:
        """Take up what was measured before the run was stopped, as the lines of `metrics.jsonl` tell."""

    def on_epoch_end(self, epoch, logs=None) -> None:
        if self.step % self.every == 0 or self.step == self.steps:
            with averaged_weights(self.model):
                logs.update(self.measure())


class HoldOut(Monitor):
    """Scores held-out images, keeps the checkpoint with the best score in `WORKDIR/best`, and can end the training early.

    Of equal scores the last is the best, because the learning rate was lower. But it does not count as a better one for the
    patience. What was measured so far is read from `metrics.jsonl`, so that a run that was killed
    ends as one that was not. The best checkpoint is saved before the score is logged, and the score is logged before the
    checkpoint of the same step is saved.

    Args:
        measure: returns the score as `holdout_top1`.
        every: steps between two scores, a multiple of `run.log_every`.
        steps: of the whole training.
        workdir: of the run.
        patience: scores without a better one after which the training ends, or 0.
    """

    def __init__(self, measure: Callable[[], dict[str, float]], every: int, steps: int, workdir: Workdir, patience: int):
        super().__init__(measure, every, steps)
        self.workdir, self.patience, self.scores = workdir, patience, []

    def resume(self, lines: Sequence[dict]) -> None:
        self.scores = scores_of(lines)
        self.ended = self._out_of_patience()

    def on_epoch_end(self, epoch, logs=None) -> None:
        super().on_epoch_end(epoch, logs)
        if HOLDOUT not in logs:
            return
        self.scores.append((self.step, logs[HOLDOUT]))
        if best_of(self.scores)[0] == self.step:
            require_finite(self.model, self.workdir, self.step)
            state = {"window": {"first": self.step, "metrics": []}}  # of the log interval that begins here
            save_checkpoint(self.workdir.best, self.step, self.model, state, keep=1)
        self.ended = self._out_of_patience()
        if self.ended:
            self.model.stop_training = True

    def _out_of_patience(self) -> bool:
        if not self.patience or not self.scores:
            return False
        _, highest = best_of(self.scores)
        first = min(step for step, score in self.scores if score == highest)
        return sum(step > first for step, _ in self.scores) >= self.patience


def scores_of(lines: Sequence[dict]) -> list[tuple[int, float]]:
    """The scores on held-out images as `[(step, score), ...]`, from the lines of `metrics.jsonl`."""
    return [(line["step"], line[HOLDOUT]) for line in lines if HOLDOUT in line]


def best_of(scores: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """The `(step, score)` with the highest score, the last of equal ones."""
    return max(scores, key=lambda score: (score[1], score[0]))


def choice(lines: Sequence[dict], steps: int, best: int) -> dict[str, float | int | None]:
    """What the hold-out of a finished training chose.

    Args:
        lines: of `metrics.jsonl`.
        steps: of the whole training.
        best: the step of the checkpoint that was kept as the best. Of equal scores an earlier version kept the first.

    Returns:
        `best_step` and its `holdout_top1`, and `stopped_at`, the step at which patience ended the training, or None.
    """
    last = lines[-1]["step"]
    return {"best_step": best, HOLDOUT: dict(scores_of(lines))[best], "stopped_at": last if last < steps else None}
