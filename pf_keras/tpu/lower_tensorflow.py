"""Lower a traced TensorFlow step to HLO for the TPU compiler, with the exchange between cores in it."""

from pf_keras.tpu.trace import Program

PREFIX = "of_program_"  # of functions, whose own names belong to the traced step
ALL_TO_ALL = "pf_keras.all_to_all"


def lower_program(program: Program) -> bytes:
    """The serialized HLO module of a program.

    TensorFlow lowers it as for a CPU, because this machine has no other platform. The operations that it would only lower
    for a TPU are replaced: `CrossReplicaSum` by `XlaAllReduce`, which becomes the same HLO, and `AllToAll` by a custom call
    named `ALL_TO_ALL`, for which `compile_hlo` puts the HLO operation.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context
    from tensorflow.python.eager.polymorphic_function import compiler_ir

    graph = _for_cpu(program.graph)
    for function in graph.library.function:
        context.context().add_function_def(function)

    @tf.function(autograph=False)
    def step(*values):
        capture = tf.compat.v1.get_default_graph().capture
        inputs = {name: capture(variable.handle) for name, variable in program.variables.items()}
        inputs |= dict(zip(program.inputs, values, strict=True))
        return tf.graph_util.import_graph_def(graph, inputs, program.outputs, name="")

    concrete = step.get_concrete_function(*program.inputs.values())
    return compiler_ir.from_concrete_function(concrete)(stage="hlo_serialized", platform_name="CPU")


def _for_cpu(graph):
    """A copy of a GraphDef with operations that TensorFlow lowers for a CPU, and with functions of other names."""
    copy = type(graph)()
    copy.CopyFrom(graph)
    functions = {function.signature.name for function in copy.library.function}
    for function in copy.library.function:
        function.signature.name = PREFIX + function.signature.name
    for node in [*copy.node, *(node for function in copy.library.function for node in function.node_def)]:
        if node.op == "CrossReplicaSum":
            node.op = "XlaAllReduce"
            node.attr["reduce_op"].s, node.attr["mode"].s = b"Add", b"CrossReplica"
        elif node.op == "AllToAll":
            _replace_all_to_all(node)
        elif node.op in functions:
            node.op = PREFIX + node.op
        for attr in node.attr.values():
            for called in [attr.func] * attr.HasField("func") + list(attr.list.func):
                if called.name in functions:
                    called.name = PREFIX + called.name
        for name in ("_tpu_replicate", "_output_shapes"):
            node.attr.pop(name, None)
        node.device = ""
    return copy


def _replace_all_to_all(node) -> None:
    from tensorflow.core.framework import attr_value_pb2

    axes = [node.attr[name].i for name in ("concat_dimension", "split_dimension")]
    if axes != [0, 0]:  # TPUStrategy has no other, for variables of the first replica
        raise NotImplementedError(f"Expected AllToAll over axis 0. Received: {node.name} with {axes}")
    dtype, shape = node.attr["T"].type, node.attr["_output_shapes"].list.shape[0]
    node.op = "XlaCustomCall"
    node.attr.clear()
    node.attr["target_name"].s, node.attr["backend_config"].s = ALL_TO_ALL.encode(), b""
    node.attr["dtype"].type = dtype
    node.attr["shape"].shape.CopyFrom(shape)
    del node.input[1:]  # the groups: one with all replicas
    node.attr["T"].CopyFrom(attr_value_pb2.AttrValue(list=attr_value_pb2.AttrValue.ListValue(type=[dtype])))
