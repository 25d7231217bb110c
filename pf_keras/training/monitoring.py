"""What is measured while a model trains: to watch it, or to choose the best checkpoint and the end of the training.

A monitor measures at the end of a log interval. Its numbers go to `metrics.jsonl`, the progress and the tracker like the loss.
"""

from collections.abc import Callable, Sequence

from pf_keras.errors import UserError
from pf_keras.training.averaging import averaged_weights
from pf_keras.training.callbacks import RunCallback, require_finite
from pf_keras.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
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
    patience. What was measured so far is read from `metrics.jsonl`, and the best score from the best checkpoint, so that a run
    that was killed ends as one that was not. The best checkpoint is saved before the score is logged, and the score is logged
    before the checkpoint of the same step is saved.

    Args:
        measure: returns the score as `holdout_top1`.
        every: steps between two scores, a multiple of `run.log_every`.
        steps: of the whole training.
        workdir: of the run.
        patience: scores without a better one after which the training ends, or 0.
    """

    def __init__(self, measure: Callable[[], dict[str, float]], every: int, steps: int, workdir: Workdir, patience: int):
        super().__init__(measure, every, steps)
        self.workdir, self.patience, self.scores, self.best = workdir, patience, [], float("-inf")

    def resume(self, lines: Sequence[dict]) -> None:
        self.scores = scores_of(lines)
        if best := best_checkpoint(self.workdir, lines):
            self.best = score_of(best, lines)
        self.ended = self._out_of_patience()

    def on_epoch_end(self, epoch, logs=None) -> None:
        super().on_epoch_end(epoch, logs)
        if HOLDOUT not in logs:
            return
        self.scores.append((self.step, logs[HOLDOUT]))
        if logs[HOLDOUT] >= self.best:
            self.best = logs[HOLDOUT]
            require_finite(self.model, self.workdir, self.step)
            save_checkpoint(self.workdir.best, self.step, self.model, {HOLDOUT: self.best}, keep=1)
        self.ended = self._out_of_patience()
        if self.ended:
            self.model.stop_training = True

    def _out_of_patience(self) -> bool:
        if not self.patience or not self.scores:
            return False
        highest = max(score for _, score in self.scores)
        first = min(step for step, score in self.scores if score == highest)
        return sum(step > first for step, _ in self.scores) >= self.patience


def scores_of(lines: Sequence[dict]) -> list[tuple[int, float]]:
    """The scores on held-out images as `[(step, score), ...]`, from the lines of `metrics.jsonl`."""
    return [(line["step"], line[HOLDOUT]) for line in lines if HOLDOUT in line]


def best_checkpoint(workdir: Workdir, lines: Sequence[dict]) -> Checkpoint | None:
    """The checkpoint with the best score on held-out images, or None where nothing was scored.

    Args:
        workdir: of the run.
        lines: of its `metrics.jsonl`.

    Raises:
        UserError: there are scores, but the checkpoint is missing or damaged.
    """
    best = latest_checkpoint(workdir.best)
    if best is None and scores_of(lines):
        raise UserError(
            f"{workdir.best} has no whole checkpoint, but held-out images chose one. Restore it, or use another --workdir."
        )
    return best


def score_of(best: Checkpoint, lines: Sequence[dict]) -> float:
    """The score of a best checkpoint, which an earlier version only logged. Raises UserError where it is unknown."""
    score = best.state.get(HOLDOUT, dict(scores_of(lines)).get(best.step))
    if score is None:
        raise UserError(f"metrics.jsonl has no {HOLDOUT} of step {best.step}, of {best.path}. Restore it.")
    return score


def choice(lines: Sequence[dict], steps: int, best: Checkpoint) -> dict[str, float | int | None]:
    """What the hold-out of a finished training chose.

    Args:
        lines: of `metrics.jsonl`.
        steps: of the whole training.
        best: the checkpoint that was kept as the best.

    Returns:
        `best_step` and its `holdout_top1`, and `stopped_at`, the step at which patience ended the training, or None.
    """
    last = lines[-1]["step"]
    return {"best_step": best.step, HOLDOUT: score_of(best, lines), "stopped_at": last if last < steps else None}
