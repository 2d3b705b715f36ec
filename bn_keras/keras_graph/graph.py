"""The calls of a model, and the tensors between them."""

import collections
from dataclasses import dataclass, field
from typing import Any

from keras import tree


@dataclass(eq=False)
class Edge:
    """A tensor between two calls.

    Args:
        shape: Its shape, with None for unknown sizes.
        dtype: The name of its data type.
        producer: The call that returns it, or None for an input of the model.
        consumers: The calls that use it, one entry for each argument.
        is_output: Whether the model returns it.
    """

    shape: tuple[int | None, ...]
    dtype: str
    producer: "Call | None" = None
    consumers: list["Call"] = field(default_factory=list)
    is_output: bool = False


@dataclass(eq=False)
class Call:
    """One call of an operation of the original model.

    Args:
        operation: The original layer or operation, which is never changed.
        path: The names of the nested models around it, and its own name.
        arguments: `(args, kwargs)`, with edges in place of tensors.
        outputs: The edges that it returns.
        label: The path, with the number of the call if there are several.
        affine: The affine map that replaces the operation, if any.
        weights: The new float64 weights by attribute, or None if they do not change.
        settings: The constructor arguments that change along with the weights.
        inner: The graphs of layers inside an operation that is one call, by layer.
        reason_closed: Why the operation is one call, although it was to be opened.
    """

    operation: Any
    path: str
    arguments: tuple[Any, Any]
    outputs: list[Edge]
    label: str = ""
    affine: Any = None
    weights: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    inner: "dict[Any, Graph]" = field(default_factory=dict)
    reason_closed: str = ""

    @property
    def inputs(self) -> list[Edge]:
        """The edges among the arguments, without masks, in calling order."""
        args, kwargs = self.arguments
        kwargs = {key: kwargs[key] for key in kwargs if key != "mask"}
        return [x for x in tree.flatten((args, kwargs)) if isinstance(x, Edge)]

    @property
    def training(self) -> bool | None:
        """The `training` argument of the call, or None if it was not passed."""
        args, kwargs = self.arguments
        return kwargs.get("training", args[1] if len(args) > 1 else None)


@dataclass(eq=False)
class Graph:
    """The calls of a model, in an order in which they can be executed.

    Args:
        name: The name of the model.
        input_tensors: The original symbolic inputs, in the structure that the model
            takes.
        inputs: A flat list with an edge for each input.
        output_structure: The original symbolic outputs, in the structure that the model
            returns.
        output_names: A flat list with a name for each output.
        outputs: A flat list with an edge for each output.
        calls: The calls.
        opened: Paths of the layers that were replaced by the calls inside them.
    """

    name: str
    input_tensors: Any
    inputs: list[Edge]
    output_structure: Any
    output_names: list[str]
    outputs: list[Edge] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def remove(self, call: Call) -> None:
        """Remove a call with one input, which then takes the place of its output."""
        (source,), (target,) = call.inputs, call.outputs
        # Not only `call.inputs`: its mask loses a consumer, too.
        for edge in edges_of(call):
            edge.consumers.remove(call)
        for consumer in target.consumers:
            consumer.arguments = tree.map_structure(
                lambda x: source if x is target else x, consumer.arguments
            )
            source.consumers.append(consumer)
        source.is_output = source.is_output or target.is_output
        self.outputs = [source if x is target else x for x in self.outputs]
        self.calls.remove(call)

    def copy_call(self, call: Call, reader: Call) -> None:
        """Insert a second call of an operation, whose only output one call reads."""
        (target,) = call.outputs
        output = Edge(target.shape, target.dtype, consumers=[reader])
        duplicate = Call(
            call.operation, call.path, call.arguments, [output], label=call.label
        )
        output.producer = duplicate
        for edge in edges_of(call):
            edge.consumers.append(duplicate)
        target.consumers.remove(reader)
        reader.arguments = tree.map_structure(
            lambda x: output if x is target else x, reader.arguments
        )
        self.calls.insert(self.calls.index(call) + 1, duplicate)


def layer_keys(graph: Graph) -> dict[Call, tuple[Any, ...]]:
    """Return a key for each call, equal for calls that can still share a layer.

    These are the calls that share one in the original model and whose new weights are
    bitwise equal.
    """
    counts = collections.Counter(call.operation for call in graph.calls)
    keys = {}
    for call in graph.calls:
        changed = None
        # Without another call of the layer there is nothing to compare, and the bytes
        # of its weights would be copied for nothing.
        if counts[call.operation] > 1:
            changed = call.weights
            if call.affine is not None:
                changed = {"scale": call.affine.scale, "shift": call.affine.shift}
        if changed is not None:
            changed = tuple(array.tobytes() for array in changed.values())
        keys[call] = (id(call.operation), changed)
    return keys


def edges_of(call: Call) -> list[Edge]:
    """Return the edges among the arguments, masks included, in calling order."""
    return [x for x in tree.flatten(call.arguments) if isinstance(x, Edge)]
