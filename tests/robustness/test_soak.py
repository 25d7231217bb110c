"""A long run does not grow, slow down or leak open files."""

import json
import os
import statistics

import pytest

from tests.robustness.runs import Run

STEPS = 6000


@pytest.mark.slow
def test_thousands_of_steps(tmp_path):
    fields = {"pretrain.steps": str(STEPS), "run.log_every": "20", "run.checkpoint_every": "100"}
    run, sizes, files = Run(tmp_path / "run", fields), {}, {}

    def sample():
        lines = run.stderr.count("step ")
        if lines not in sizes:
            process = f"/proc/{run.process.pid}"
            with open(f"{process}/statm") as file:
                sizes[lines] = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
            files[lines] = len(os.listdir(f"{process}/fd"))
        return lines >= STEPS // 20 - 1

    run.wait_until(sample, timeout=3600)
    assert run.wait() == 0, run.stderr[-2000:]

    intervals = STEPS // 20
    throughputs = [json.loads(line)["images_per_second"] for line in (tmp_path / "run" / "metrics.jsonl").open()]
    tenth = intervals // 10
    first, last = statistics.median(throughputs[1 : tenth + 1]), statistics.median(throughputs[-tenth:])
    warm = statistics.median(size for lines, size in sizes.items() if tenth <= lines <= tenth + 10)
    end = statistics.median(size for lines, size in sizes.items() if lines >= intervals - 11)
    opened = [statistics.median(n for at, n in files.items() if low <= at <= low + 10) for low in (tenth, intervals - 11)]
    print(
        f"{STEPS} steps: {warm:.0f} MiB after warm-up, {end:.0f} MiB at the end; open files {opened[0]:.0f} and "
        f"{opened[1]:.0f}; images/s {first:.0f} in the first tenth, {last:.0f} in the last"
    )
    assert end <= 1.05 * warm
    assert opened[1] <= opened[0] + 2
    assert last >= 0.8 * first
