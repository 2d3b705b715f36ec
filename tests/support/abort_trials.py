"""Find the operations that abort the process, by running them on unexpected shapes.

Run as a program, with the kind of the trials and, optionally, the names of some. Each
trial runs in a child process, forked before TensorFlow has any threads. It prints a
JSON document for each trial.
"""

import contextlib
import itertools
import json
import os
import signal
import sys

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import (
    attr_value_pb2,
    graph_pb2,
    op_def_pb2,
    types_pb2,
)
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import kernels

from bn_keras_serving.servable.operations import FILE_OPERATIONS

v1 = tf.compat.v1
SECONDS = 30
# Operations that wait for others, abort on purpose, or are written only by TensorFlow.
SKIPPED = (
    *("Abort", "Barrier", "Collective", "MapPeek", "MapStage", "MapUnstage"),
    *("OrderedMap", "Sleep", "Stage", "Unstage", "_", "BoostedTrees"),
)
SHAPES = [
    *((2,) * rank for rank in range(6)),
    *((1,) * 6, (0,), (0, 2), (2, 0), (3, 3), (0, 2, 2), (3, 0, 2), (0, 2, 2, 2)),
    *((2, 0, 0, 2), (1, 2, 2, 3), (0, 2, 2, 2, 2)),
]


def values(dtype, shape):
    """Return the numbers 1 and 2, or strings, of a shape."""
    count = int(np.prod(shape))
    if dtype == tf.string:
        array = np.empty(count, object)
        array[:] = [b"1"] * count
        return array.reshape(shape)
    return (np.arange(count) % 2 + 1).reshape(shape).astype(dtype.as_numpy_dtype)


def run(graph, inputs, outputs, cases, report):
    """Run a graph on each case, a shape for each input; report its number first."""
    config = config_pb2.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=1
    )
    options = config_pb2.RunOptions(timeout_in_ms=3000).SerializeToString()
    session = v1.Session(graph=graph, config=config)
    session._extend_graph()
    for number, shapes in enumerate(cases):
        report(str(number))
        buffer = pywrap_tf_session.TF_NewBufferFromString(options)
        feeds = {
            tensor._as_tf_output(): values(tensor.dtype, shape)
            for tensor, shape in zip(inputs, shapes, strict=True)
        }
        with contextlib.suppress(tf.errors.OpError, UnicodeDecodeError):
            session._call_tf_sessionrun(
                buffer, feeds, [tensor._as_tf_output() for tensor in outputs], [], None
            )


def attempt(trial):
    """Run a trial in a child process.

    Args:
        trial: Function that gets a function to report lines of text, the last of which
            is the number of the last case.

    Returns:
        The signal that ended the child, or 0, and the lines.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        try:
            trial(lambda line: os.write(writer, line.encode() + b"\n"))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as reports:
        lines = reports.read().splitlines()
    _, status = os.waitpid(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return ended_by, lines


# Single operations


def registered_operations():
    """Return the operations with a CPU kernel and inputs, by name."""
    buffer = pywrap_tf_session.TF_GetAllOpList()
    operations = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(buffer))
    runnable = {
        kernel.op
        for kernel in kernels.get_all_registered_kernels().kernel
        if kernel.device_type == "CPU"
    }
    return {
        operation.name: operation
        for operation in sorted(operations.op, key=lambda operation: operation.name)
        if operation.name in runnable
        and operation.input_arg
        and operation.output_arg
        and not operation.name.startswith(SKIPPED)
        and operation.name not in FILE_OPERATIONS
    }


def attributes(operation):
    """Yield up to four sets of attributes; those without a default are made up."""
    choices = {attr.name: made_up(operation, attr) for attr in operation.attr}
    if all(choices.values()):
        combinations = itertools.product(*choices.values())
        for combination in itertools.islice(combinations, 4):
            yield dict(zip(choices, combination, strict=True))


def made_up(operation, attr):
    """Return values to try for one attribute."""

    def numbers(*lists):
        return [{"list": {"i": numbers}} for numbers in lists]

    allowed = attr.allowed_values.list
    if attr.name == "padding" and attr.type == "string":
        choices = [{"s": b"VALID"}, {"s": b"SAME"}]
    elif attr.type == "type":
        order = [types_pb2.DT_FLOAT, types_pb2.DT_INT32, types_pb2.DT_STRING]
        order += [types_pb2.DT_UINT8, types_pb2.DT_QUINT8, types_pb2.DT_QINT8]
        order += [types_pb2.DT_BOOL, types_pb2.DT_COMPLEX64, types_pb2.DT_INT64]
        order += [types_pb2.DT_QINT32, types_pb2.DT_DOUBLE]
        if attr.name in ("Toutput", "out_type"):
            order.insert(0, types_pb2.DT_QINT32)
        if attr.name == "T2":
            order.insert(0, types_pb2.DT_QINT8)
        if attr.HasField("default_value"):
            order.insert(0, attr.default_value.type)
        choices = [{"type": t} for t in order if not allowed.type or t in allowed.type]
        choices = choices[:1]
    elif attr.HasField("default_value"):
        return [attr.default_value]
    elif attr.type == "list(int)":
        axes = 5 if "3D" in operation.name or "Volume" in operation.name else 4
        ones, twos = [1] * axes, [1, *[2] * (axes - 2), 1]
        choices = numbers(twos, ones) if "ksize" in attr.name else numbers(ones, twos)
    else:
        unknown = {"unknown_rank": True}
        choices = {
            "int": [{"i": max(2, attr.minimum)}],
            "float": [{"f": 1.0}],
            "bool": [{"b": False}],
            "string": [{"s": text} for text in list(allowed.s) or [b"ab,bc->ac"]],
            "list(float)": [{"list": {"f": [1.0] * 4}}],
            "list(type)": [{"list": {"type": [types_pb2.DT_FLOAT] * 2}}],
            "list(string)": [{"list": {"s": [b"x"]}}],
            "list(shape)": [{"list": {"shape": [unknown] * 2}}],
            "shape": [{"shape": unknown}],
        }.get(attr.type, [])
    return [attr_value_pb2.AttrValue(**choice) for choice in choices]


def input_types(operation, values_by_name):
    """Return the type of each input; None if one is not an ordinary tensor."""
    types = []
    for argument in operation.input_arg:
        if argument.type_list_attr:
            types += values_by_name[argument.type_list_attr].list.type
            continue
        count = values_by_name[argument.number_attr].i if argument.number_attr else 1
        kind = argument.type or values_by_name[argument.type_attr].type
        types += [kind] * count
    special = {types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT}
    unusual = any(argument.is_ref for argument in operation.input_arg)
    return None if unusual or special & set(types) else types


def shape_combinations(inputs):
    """Return shapes to try together: all pairs, and a part of what is possible."""
    if inputs <= 2:
        return list(itertools.product(SHAPES, repeat=inputs))
    cases = [(shape,) * inputs for shape in SHAPES]
    for position, others in itertools.product(
        range(min(inputs, 3)), [(), (2,), (2, 2), (2,) * 4, (2,) * 5]
    ):
        for shape in (*SHAPES[:6], (0, 2, 2, 2)):
            case = [others] * inputs
            case[position] = shape
            cases.append(tuple(case))
    return list(dict.fromkeys(cases))


def operation_trial(name, values_by_name, types, cases):
    """Return a trial of an operation whose inputs have unknown shapes."""

    def trial(report):
        graph_def = graph_pb2.GraphDef()
        sources = []
        for number, data_type in enumerate(types):
            node = graph_def.node.add(name=f"p{number}", op="Placeholder")
            node.attr["dtype"].type = data_type
            node.attr["shape"].shape.unknown_rank = True
            sources.append(node.name)
            if data_type in (types_pb2.DT_FLOAT, types_pb2.DT_INT32):
                # An empty tensor that an operation has made has no memory at all.
                zero = tf.make_tensor_proto(0, tf.as_dtype(data_type))
                node = graph_def.node.add(name=f"z{number}", op="Const")
                node.attr["dtype"].type = data_type
                node.attr["value"].tensor.CopyFrom(zero)
                node = graph_def.node.add(name=f"a{number}", op="AddV2")
                node.input.extend([f"p{number}", f"z{number}"])
                node.attr["T"].type = data_type
                sources[-1] = node.name
        node = graph_def.node.add(name="tried", op=name, input=sources)
        for key, value in values_by_name.items():
            node.attr[key].CopyFrom(value)
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(graph_def, name="")
        outputs = [
            tensor
            for tensor in graph.get_operation_by_name("tried").outputs
            if tensor.dtype not in (tf.resource, tf.variant)
        ]
        inputs = [graph.get_tensor_by_name(f"p{n}:0") for n in range(len(types))]
        if outputs:
            run(graph, inputs, outputs, cases, report)

    return trial


def try_operations(names):
    """Yield the result for each operation of TensorFlow, or for some."""
    for name, operation in registered_operations().items():
        if names and name not in names:
            continue
        result = {"name": name, "signal": 0}
        for values_by_name in attributes(operation):
            types = input_types(operation, values_by_name)
            if not types:
                continue
            cases = shape_combinations(len(types))
            trial = operation_trial(name, values_by_name, types, cases)
            ended_by, lines = attempt(trial)
            if ended_by and ended_by != signal.SIGALRM and lines:
                result |= {"signal": ended_by, "shapes": cases[int(lines[-1])]}
                break
        yield result


# Whole graphs


def graph_trial(shape, build, known, cases):
    """Return a trial of a graph with one input."""

    def trial(report):
        with tf.Graph().as_default() as graph:
            x = v1.placeholder(tf.float32, shape if known else None)
            y = tf.nest.flatten(build(x))[0]
        report(json.dumps(operations_of(graph)))
        run(graph, [x], [y], cases, report)

    return trial


def shapes_near(declared):
    """Return a declared shape, then others of every rank, empty ones included."""
    fitting = [2 if size is None else size for size in declared]
    shapes = [tuple(fitting)]
    for rank in range(7):
        cut = [*[2] * (rank - len(fitting)), *fitting][:rank]
        kept = [*fitting, *[2] * rank][-rank or len(fitting) + rank :]
        shapes += [(1,) * rank, (2,) * rank, tuple(cut), tuple(kept[:rank])]
        for position in range(rank):
            for base in ((2,) * rank, tuple(cut)):
                shapes.append((*base[:position], 0, *base[position + 1 :]))
    for position, size in enumerate(fitting):
        for other in (0, 1, size + 1):
            shapes.append((*fitting[:position], other, *fitting[position + 1 :]))
    return list(dict.fromkeys(shapes))


def operations_of(graph):
    """Return the names of the operations in a graph and its functions."""
    graph_def = graph.as_graph_def()
    nodes = list(graph_def.node)
    for function in graph_def.library.function:
        nodes += function.node_def
    return sorted({node.op for node in nodes})


def try_graphs(graphs, names):
    """Yield the result for each graph, with a known and an unknown input shape."""
    for name, (shape, build) in graphs.items():
        if names and name not in names:
            continue
        for known in (True, False):
            cases = [(near,) for near in shapes_near(shape)]
            trial = graph_trial(shape, build, known, cases)
            ended_by, lines = attempt(trial)
            # Some graphs cannot be built for an input of unknown shape.
            yield {
                "name": name,
                "known": known,
                "operations": json.loads(lines[0]) if lines else [],
                "signal": ended_by,
                "shapes": cases[int(lines[-1])] if ended_by else None,
                "cases": len(lines) - 1,
            }


if __name__ == "__main__":
    if sys.argv[1] == "operations":
        results = try_operations(sys.argv[2:])
    else:
        from abort_graphs import GRAPHS

        results = try_graphs(GRAPHS, sys.argv[2:])
    for result in results:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
