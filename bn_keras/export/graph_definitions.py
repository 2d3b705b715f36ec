"""Read and tidy `GraphDef` messages."""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any


def tensor_name(reference: str) -> str:
    """Return the name of the tensor that an entry of a node's inputs stands for."""
    return reference if ":" in reference else f"{reference}:0"


def all_nodes(graph_def: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of its functions."""
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def names_used(
    graph_def: Any, outputs: Iterable[str], given: Collection[str] = ()
) -> set[str]:
    """Return the names of the nodes and of the given tensors that outputs depend on.

    Args:
        graph_def: A `tf.compat.v1.GraphDef`.
        outputs: The names of tensors.
        given: The names of tensors whose values are given, so that nothing before them
            is used.
    """
    nodes = {node.name: node for node in graph_def.node}
    used: set[str] = set()
    pending = list(outputs)
    while pending:
        reference = pending.pop()
        tensor = tensor_name(reference)
        if tensor in given:
            used.add(tensor)
            continue
        # `^name` means that the node runs after that one.
        name = reference.removeprefix("^").partition(":")[0]
        # A node that was moved out of the graph needs no order.
        if name not in used and name in nodes:
            used.add(name)
            pending += nodes[name].input
    return used


def keep_nodes(graph_def: Any, names: Collection[str]) -> None:
    """Remove the nodes with other names, and what refers to their order or place."""
    kept = [node for node in graph_def.node if node.name in names]
    for node in kept:
        inputs = [x for x in node.input if not x.startswith("^") or x[1:] in names]
        # Fields of protobuf messages cannot be assigned, only emptied and extended.
        del node.input[:]
        node.input.extend(inputs)
        # A node with this attribute is placed where another one is.
        node.attr.pop("_class", None)
    del graph_def.node[:]
    graph_def.node.extend(kept)


def remove_counters(graph_def: Any) -> None:
    """Rename the functions of a graph, so that equal models give equal bytes.

    TensorFlow ends the name of a function with a counter, which depends on the
    functions that the process has created before, and uses it in names of arguments.
    """
    functions = graph_def.library.function
    # In order of their counters, the functions of equal models correspond.
    functions.sort(key=_function_counter)
    new_names = {
        function.signature.name: f"function_{number}"
        for number, function in enumerate(functions)
    }
    for function in functions:
        function.signature.name = new_names[function.signature.name]
        _number_arguments(function)
    for node in all_nodes(graph_def):
        for key, attribute in node.attr.items():
            if attribute.HasField("func"):
                name = attribute.func.name
                attribute.func.name = new_names.get(name, name)
            elif key == "metadata":
                # `tf.data` counts its datasets here.
                attribute.s = b""


def _number_arguments(function: Any) -> None:
    new_names = {}
    for number, argument in enumerate(function.signature.input_arg):
        new_names[argument.name] = f"argument_{number}"
        argument.name = f"argument_{number}"
    for node in function.node_def:
        inputs = [new_names.get(x, x) for x in node.input]
        del node.input[:]
        node.input.extend(inputs)
    for name, source in list(function.ret.items()):
        function.ret[name] = new_names.get(source, source)


def _function_counter(function: Any) -> int:
    return int([0, *re.findall(r"\d+", function.signature.name)][-1])
