"""Trace the training step of a config as each core of a TPU runs it under TensorFlow, on a machine without a TPU."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import keras

from pf_keras.config import Config
from pf_keras.tpu.steps import batch_rows, build_model, compile_model, precision_on_tpu
from pf_keras.tpu.strategy import strategy_without_tpu, variables_of_one_replica
from pf_keras.training.devices import Devices

# These carry values into and out of the replicated computation, and are not part of the TPU's program.
FRAME = {"TPUReplicatedInput", "TPUReplicatedOutput", "TPUReplicateMetadata", "TPUCompilationResult"}


@dataclass(frozen=True)
class Node:
    """An operation of a program.

    Args:
        op: its kind, such as `MatMul`.
        layer: the path of the layer that made it.
        shapes: of its outputs, with None for a size that is not known before it runs, or in place of a shape.
    """

    op: str
    layer: str
    shapes: list


@dataclass(frozen=True)
class Program:
    """What every core runs, once or several times a step.

    Args:
        times: how often in a step.
        graph: a GraphDef of the program alone, with its functions.
        inputs: specs of what comes from the batch, by the name of the tensor in the graph.
        variables: the variables of a replica, by the name of the tensor with their handle.
        outputs: names of tensors.
        idle_bytes: of the variables of the step that this program does not touch, and that stay in memory.
        layers: the names of the model's layers. TensorFlow numbers them where it uses a name again.
    """

    times: int
    graph: object
    inputs: dict
    variables: dict
    outputs: list[str] = field(default_factory=list)
    idle_bytes: int = 0
    layers: frozenset[str] = frozenset()

    def nodes(self) -> Iterator[Node]:
        """All operations, those of called functions included, in the order in which the step made them."""
        functions = {function.signature.name: function for function in self.graph.library.function}
        for path, node in _nodes(self.graph.node, functions, (), set()):
            layer = "/".join(self._without_number(name) for name in path)
            yield Node(node.op, layer, [_shape(shape) for shape in node.attr["_output_shapes"].list.shape])

    def _without_number(self, name: str) -> str:
        plain = re.sub(r"_\d+$", "", name)
        return plain if name not in self.layers and plain in self.layers else name


def trace_step(config: Config, training: str, cores: int, images: int) -> list[Program]:
    """The programs of a step under a `TPUStrategy`, which the run calls one after the other.

    Args:
        config: of the run.
        training: `pretrain` or `finetune`.
        cores: of the slice.
        images: per core.
    """
    import tensorflow as tf

    keras.config.set_dtype_policy(precision_on_tpu(config))
    strategy = strategy_without_tpu(cores)
    with variables_of_one_replica(strategy) as variables:
        model = build_model(config, training)
        compile_model(model, config, training, Devices("tpu", cores, strategy))
    batch = keras.tree.map_structure(
        lambda rows: tf.TensorSpec((images, *rows.shape), rows.dtype), _as_fit_gets(batch_rows(config, training))
    )
    layers = frozenset(layer.name for layer in model._flatten_layers())
    return [_program(function, batch, times, variables, layers) for times, function in model.train_function.programs]


def _as_fit_gets(rows: tuple):
    """A batch without labels is no tuple."""
    return rows if len(rows) > 1 else rows[0]


def _program(function: Callable, batch, times: int, variables: dict, layers: frozenset[str]) -> Program:
    """The replicated computation in `function(batch)`, cut out of its graph."""
    import tensorflow as tf
    from tensorflow.core.framework import graph_pb2

    @tf.function(autograph=False)
    def host(data):
        function(data)

    concrete = host.get_concrete_function(batch)
    inside = [op for op in concrete.graph.get_operations() if "_tpu_replicate" in op.node_def.attr and op.type not in FRAME]
    names = {op.name for op in inside}
    whole = concrete.graph.as_graph_def(add_shapes=True)
    graph = graph_pb2.GraphDef(versions=whole.versions, library=whole.library)
    for node in whole.node:
        if node.name in names:
            copy = graph.node.add()
            copy.CopyFrom(node)
            # Of control inputs, those from the outside order only what the host does.
            copy.input[:] = [name for name in node.input if not name.startswith("^") or name[1:] in names]
    entering = {t.name: t for op in inside for t in op.inputs if t.op.name not in names}
    handles = dict(zip((t.name for t in concrete.inputs[::-1]), concrete.captured_inputs[::-1], strict=False))
    held = {name: variables[id(handles[t.op.inputs[0].name])] for name, t in entering.items() if t.dtype == tf.resource}
    used = {id(variable) for variable in held.values()}
    return Program(
        times,
        graph,
        {name: tf.TensorSpec(t.shape, t.dtype) for name, t in entering.items() if name not in held},
        held,
        [t.name for op in inside for t in op.outputs if any(user.name not in names for user in t.consumers())],
        sum(v.shape.num_elements() * v.dtype.size for v in variables.values() if id(v) not in used),
        layers,
    )


def _nodes(nodes, functions: dict, path: tuple, seen: set) -> Iterator[tuple]:
    for node in nodes:
        *layer, _ = node.name.split("/")
        values = node.attr.values()
        called = {node.op} | {a.func.name for a in values} | {f.name for a in values for f in a.list.func}
        if node.op not in functions:
            yield (*path, *layer), node
        for name in sorted((called & functions.keys()) - seen):
            seen.add(name)
            yield from _nodes(functions[name].node_def, functions, (*path, *layer), seen)


def _shape(shape) -> list | None:
    """A TensorShapeProto as a list, or None for an unknown rank."""
    return None if shape.unknown_rank else [size.size if size.size >= 0 else None for size in shape.dim]
