"""Find what a TPU cannot run in a traced TensorFlow step: operations without a kernel, and shapes that are not known."""

from collections.abc import Iterable
from pathlib import Path

from pf_keras.tpu.trace import FRAME, Program


def without_kernel(programs: Iterable[Program]) -> list[str]:
    """The operations without a TPU kernel, each as `AsString in pretrainer/decoder`, by the path of its layer.

    The kernels are those of tensorflow-tpu 2.20, listed in `xla_tpu_ops.txt`.
    """
    known = set((Path(__file__).parent / "xla_tpu_ops.txt").read_text().split()) | FRAME
    return _unique(f"{node.op} in {node.layer}" for program in programs for node in program.nodes() if node.op not in known)


def with_unknown_shape(programs: Iterable[Program]) -> list[str]:
    """The operations that make a shape which is not known before they run, in the same form.

    What computes with their results is left out.
    """
    return _unique(
        f"{node.op} in {node.layer}"
        for program in programs
        for node in program.nodes()
        if any(shape is None or None in shape for shape in node.shapes)
    )


def _unique(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found))
