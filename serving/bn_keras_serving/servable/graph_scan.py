"""What the graph of a SavedModel does, found without running it."""

from collections.abc import Iterator
from typing import NamedTuple

from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from bn_keras_serving.servable.operations import aborts_on_shapes, uses_files

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


class FileOperation(NamedTuple):
    """An operation that uses files, and the node that performs it."""

    operation: str
    node: str


class GraphScan:
    """The operations that each signature of a SavedModel runs.

    A signature runs the nodes that its outputs depend on, back to its inputs. A
    function that such a node calls is taken as a whole, together with the functions
    that it calls. What only the initialization or the saver of a SavedModel run does
    not count.

    Args:
        meta_graph: The graph with its library of functions. The scan refers to it, so
            it should not live longer than needed: that keeps the weights in memory.
    """

    def __init__(self, meta_graph: meta_graph_pb2.MetaGraphDef):
        graph: graph_pb2.GraphDef = meta_graph.graph_def
        self._nodes = {node.name: node for node in graph.node}
        self._functions = {
            function.signature.name: function for function in graph.library.function
        }
        self._function_nodes: dict[str, list[node_def_pb2.NodeDef]] = {}

    def file_operation(
        self, signature: meta_graph_pb2.SignatureDef
    ) -> FileOperation | None:
        """Return an operation of a signature that uses files or runs Python, if any."""
        for node in self._run_nodes(signature):
            if uses_files(node):
                return FileOperation(node.op, node.name)
        return None

    def graph_types(self, signature: meta_graph_pb2.SignatureDef) -> dict[str, int]:
        """Return the `DataType` of each input that is a placeholder in the graph.

        It can differ from the type that the signature declares.
        """
        types: dict[str, int] = {}
        for name, info in signature.inputs.items():
            node = self._nodes.get(_tensor(info.name)[0])
            if node is not None and node.op in _PLACEHOLDERS:
                types[name] = node.attr["dtype"].type
        return types

    def aborting_operation(self, signature: meta_graph_pb2.SignatureDef) -> str | None:
        """Return an operation of a signature that aborts on some shapes, if any."""
        operations = (node.op for node in self._run_nodes(signature))
        return next(filter(aborts_on_shapes, operations), None)

    def unsafe_inputs(self, signature: meta_graph_pb2.SignatureDef) -> set[str]:
        """Return the inputs whose shapes must be checked before the graph runs.

        These are all inputs that the graph does not check itself, if the signature runs
        an operation that aborts the process on some shapes.
        """
        if self.aborting_operation(signature) is None:
            return set()
        reached = self._reached(signature)
        consumers: dict[str, list[tuple[node_def_pb2.NodeDef, int]]] = {}
        for node in reached:
            for position, reference in enumerate(node.input):
                if not reference.startswith("^"):
                    consumer = (node, position)
                    consumers.setdefault(_normalize(reference), []).append(consumer)
        return {
            name
            for name, info in signature.inputs.items()
            if not self._is_guarded(info, consumers)
        }

    def _run_nodes(
        self, signature: meta_graph_pb2.SignatureDef
    ) -> Iterator[node_def_pb2.NodeDef]:
        """Yield each node that a signature runs, those in functions included."""
        called: set[str] = set()
        for node in self._reached(signature):
            yield node
            waiting = self._called_functions(node)
            while waiting:
                name = waiting.pop()
                if name in called:
                    continue
                called.add(name)
                for inner in self._functions[name].node_def:
                    yield inner
                    waiting.extend(self._called_functions(inner))

    def _reached(
        self, signature: meta_graph_pb2.SignatureDef
    ) -> list[node_def_pb2.NodeDef]:
        """Return the nodes of the graph that the outputs of a signature depend on."""
        fed = {_normalize(info.name) for info in signature.inputs.values()}
        waiting = [info.name for info in signature.outputs.values()]
        seen: set[str] = set()
        reached: list[node_def_pb2.NodeDef] = []
        while waiting:
            reference = waiting.pop()
            name = _tensor(reference)[0]
            # A fed tensor is not computed.
            if _normalize(reference) in fed or name in seen or name not in self._nodes:
                continue
            seen.add(name)
            reached.append(self._nodes[name])
            waiting.extend(self._nodes[name].input)
        return reached

    def _called_functions(self, node: node_def_pb2.NodeDef) -> list[str]:
        """Return the functions of the library that a node refers to.

        Any attribute can hold a function: `f`, `body`, `then_branch`, ...
        """
        names = [node.op]
        for value in node.attr.values():
            kind = value.WhichOneof("value")
            if kind == "func":
                names.append(value.func.name)
            elif kind == "list":
                names.extend(function.name for function in value.list.func)
        return [name for name in names if name in self._functions]

    def _is_guarded(
        self,
        info: meta_graph_pb2.TensorInfo,
        consumers: dict[str, list[tuple[node_def_pb2.NodeDef, int]]],
    ) -> bool:
        """Return whether the graph itself checks the rank of an input."""
        node = self._nodes.get(_tensor(info.name)[0])
        if node is None or node.op != "Placeholder":
            return False
        # An optimization may trust the shape of a placeholder and remove the check.
        shape = node.attr["shape"].shape if "shape" in node.attr else None
        if shape is not None and not shape.unknown_rank:
            return False
        return all(
            self._guards(consumer, position, consumers)
            for consumer, position in consumers.get(_normalize(info.name), [])
        )

    def _guards(
        self,
        node: node_def_pb2.NodeDef,
        position: int,
        consumers: dict[str, list[tuple[node_def_pb2.NodeDef, int]]],
    ) -> bool:
        """Return whether a node, and what follows it, checks the rank of its input."""
        if node.op == "EnsureShape":
            return not node.attr["shape"].shape.unknown_rank
        if node.op == "Identity":
            following = consumers.get(f"{node.name}:0", [])
            return all(
                self._guards(consumer, index, consumers)
                for consumer, index in following
            )
        name = node.attr["f"].func.name if node.op in _CALLS else node.op
        if name in self._functions:
            return self._function_guards(name, position)
        return False

    def _function_guards(self, name: str, position: int) -> bool:
        """Return whether a function checks the rank of one of its arguments."""
        function = self._functions[name]
        waiting = [function.signature.input_arg[position].name]
        while waiting:
            reference = waiting.pop()
            if reference in function.ret.values():
                return False  # what the caller does with it is not followed
            for node in function.node_def:
                for index, source in enumerate(node.input):
                    if source != reference:
                        continue
                    if node.op == "Identity":
                        waiting.append(f"{node.name}:output:0")
                    elif not self._guards(node, index, {}):
                        return False
        return True


def _tensor(reference: str) -> tuple[str, str]:
    """Split a reference to a tensor or node into the node's name and the index."""
    name, _, index = reference.removeprefix("^").partition(":")
    return name, index or "0"


def _normalize(reference: str) -> str:
    return ":".join(_tensor(reference))
