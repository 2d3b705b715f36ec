"""Decide which parts of a graph are computed in int8."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keras import layers

from bn_keras.keras_graph import Call, Edge, Graph
from bn_keras.quantization.linear_layers import (
    Linear,
    NotQuantizableError,
    count_multiply_adds,
    read_linear,
    read_multiply_add,
    takes_explicit_padding,
)
from bn_keras.quantization.operations import Scale
from bn_keras.quantization.simplification import is_relu

_POOLS = {layers.MaxPooling2D: "max", layers.AveragePooling2D: "average"}
_RESHAPES = (layers.Flatten, layers.Reshape)

Ranges = Mapping[Edge, tuple[float, float]]


@dataclass(eq=False)
class Step:
    """Calls that become one operation.

    Args:
        main: The call that it is named after.
        calls: All calls, in their order. In float they are run one by one.
        kind: What the operation does; `"float"` for everything that is not int8.
        inputs: The tensors that it takes.
        output: The tensor that it returns. Steps in float may return several.
        reason: Why it is float.
        linear: The weights, of a linear layer, in int8 or not.
        padding: The zeros around the images of a convolution, if they are explicit.
        relu: Whether negative results become zero.
        limit: What larger results become.
        summand: What is added before that.
    """

    main: Call
    calls: list[Call]
    kind: str
    inputs: list[Edge]
    output: Edge
    reason: str = ""
    linear: Linear | None = None
    padding: list[tuple[int, int]] | None = None
    relu: bool = False
    limit: float = math.inf
    summand: Edge | None = None

    @property
    def is_int8(self) -> bool:
        """Whether it is computed in int8."""
        return self.kind != "float"

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of a linear layer for one example."""
        if self.linear is None:
            return 0
        return count_multiply_adds(self.linear, self.main.outputs[0].shape)


@dataclass(eq=False)
class Plan:
    """The steps of a model, and the scales of the tensors in int8."""

    graph: Graph
    steps: list[Step]
    scales: dict[Edge, Scale] = field(default_factory=dict)


def make_plan(
    graph: Graph, ranges: Ranges | None = None, float_layers: Collection[str] = ()
) -> Plan:
    """Return which calls are computed in int8, and how.

    Args:
        graph: A simplified graph.
        ranges: The smallest and the largest value of each tensor; None for a plan
            without scales.
        float_layers: Labels of linear layers that stay in float.
    """
    signed: set[Edge] = set()
    while True:
        plan = Plan(graph, _Planner(graph, float_layers, signed).make_steps())
        if ranges is None:
            return plan
        plan.scales = _choose_scales(plan, ranges)
        # A concatenation may make a tensor signed that seemed not to be. It cannot be
        # added then, so plan again with what is known now.
        sums = [x for x in plan.steps if x.summand is not None]
        edges = {y for x in sums for y in (x.summand, x.output) if y is not None}
        refused = {edge for edge in edges if plan.scales[edge].signed}
        if not refused:
            return plan
        signed |= refused


class _Planner:
    def __init__(
        self, graph: Graph, float_layers: Collection[str], signed: Collection[Edge]
    ) -> None:
        self.graph = graph
        self.signed = signed
        self.float_layers = float_layers
        self.order = {call: number for number, call in enumerate(graph.calls)}
        self.steps: dict[Call, Step] = {}
        self.producers: dict[Edge, Step] = {}

    def make_steps(self) -> list[Step]:
        absorbed = self._absorbed_paddings()
        for call in self.graph.calls:
            if call in self.steps or call in absorbed:
                continue
            step = self._make_step(call, absorbed)
            self._record(step)
        steps = dict.fromkeys(self.steps.values())
        # A fused step runs where its last call did, when all its inputs are there.
        return sorted(steps, key=lambda step: max(self.order[x] for x in step.calls))

    def _record(self, step: Step) -> None:
        for call in step.calls:
            self.steps[call] = step
        outputs = step.calls[-1].outputs if step.kind == "float" else [step.output]
        for call in step.calls:
            outputs = [*outputs, *call.outputs]
        self.producers.update(dict.fromkeys(outputs, step))

    def _make_step(self, call: Call, absorbed: Collection[Call]) -> Step:
        inputs, output = call.inputs, call.outputs[0]
        try:
            linear = self._read(call)
        except NotQuantizableError as reason:
            return Step(call, [call], "float", inputs, output, str(reason))
        if linear is not None:
            return self._make_linear(call, linear, absorbed)
        if type(call.operation) is layers.Add and (step := self._fuse_addition(call)):
            return step
        kind = self._kind_of_moving(call)
        if kind is not None and all(self._is_int8(edge) for edge in inputs):
            return Step(call, [call], kind, inputs, output)
        return Step(
            call, [call], "float", inputs, output, _reason_for_float(call, kind)
        )

    def _read(self, call: Call) -> Linear | None:
        linear = read_linear(call)
        if linear is None:
            linear = read_multiply_add(call)
            # Where its input is float already, so is the multiply-add.
            if linear is not None and not self._is_int8(call.inputs[0]):
                return None
        if linear is None:
            return None
        if linear.kind == "matrix" and len(call.inputs[0].shape) != 2:
            raise NotQuantizableError(
                f"its input has {len(call.inputs[0].shape)} axes; int8 supports 2"
            )
        return linear

    def _make_linear(
        self, call: Call, linear: Linear, absorbed: Collection[Call]
    ) -> Step:
        output = call.outputs[0]
        if call.label in self.float_layers:
            reason = "it lost too much accuracy in int8"
            step = Step(call, [call], "float", call.inputs, output, reason, linear)
        else:
            step = Step(call, [call], linear.kind, call.inputs, output, "", linear)
            # The operation has no Relu6, but its range ends there.
            relu = self._only_reader(output)
            limit = is_relu(relu) if relu is not None else None
            if relu is not None and limit is not None:
                step.calls.append(relu)
                step.output, step.relu, step.limit = relu.outputs[0], True, limit
        padding = call.inputs[0].producer
        if padding in absorbed and padding is not None:
            step.calls.insert(0, padding)
            step.inputs = padding.inputs
            step.padding = _read_padding(padding)
        return step

    def _absorbed_paddings(self) -> set[Call]:
        """Return the zero paddings that only convolutions in int8 read."""
        absorbed = set()
        for call in self.graph.calls:
            if type(call.operation) is not layers.ZeroPadding2D:
                continue
            (edge,) = call.outputs
            if edge.is_output or call.operation.data_format != "channels_last":
                continue
            readers = edge.consumers
            if readers and all(self._takes_padding(reader) for reader in readers):
                absorbed.add(call)
        return absorbed

    def _takes_padding(self, call: Call) -> bool:
        try:
            linear = read_linear(call)
        except NotQuantizableError:
            return False
        return (
            linear is not None
            and takes_explicit_padding(linear)
            and linear.padding == "VALID"
            and call.label not in self.float_layers
        )

    def _fuse_addition(self, call: Call) -> Step | None:
        """Return a convolution that adds the other summand itself, or None."""
        relu = self._only_reader(call.outputs[0])
        limit = is_relu(relu) if relu is not None else None
        if relu is None or limit is None or len(call.inputs) != 2:
            return None
        if relu.outputs[0] in self.signed:
            return None
        for edge, summand in (call.inputs, call.inputs[::-1]):
            step = self.producers.get(edge)
            if (
                step is not None
                and step.kind == "convolution"
                and step.linear is not None
                and step.linear.groups == 1
                and not step.relu
                and step.output is edge
                and self._only_reader(edge) is call
                and self._may_overwrite(summand, step, call)
            ):
                return replace(
                    step,
                    calls=[*step.calls, call, relu],
                    inputs=[*step.inputs, summand],
                    output=relu.outputs[0],
                    relu=True,
                    limit=limit,
                    summand=summand,
                )
        return None

    def _may_overwrite(self, edge: Edge, step: Step, addition: Call) -> bool:
        """Return whether nothing reads a tensor after a step that overwrites it."""
        producer = self.producers.get(edge)
        if (
            producer is None
            or not producer.relu
            or producer.kind not in ("convolution", "depthwise")
            or edge.is_output
            or edge in self.signed
            or edge.shape != addition.outputs[0].shape
        ):
            return False
        earlier = _ancestors(step.calls[0])
        return all(
            reader is addition
            # A reshaped tensor has the same memory.
            or (reader in earlier and type(reader.operation) not in _RESHAPES)
            for reader in edge.consumers
        )

    def _kind_of_moving(self, call: Call) -> str | None:
        """Return what a layer does that moves or chooses values only, or None."""
        operation: Any = call.operation
        operation_type = type(operation)
        if getattr(operation, "data_format", "channels_last") != "channels_last":
            return None
        if operation_type in _POOLS:
            return f"{_POOLS[operation_type]} pooling"
        if operation_type is layers.GlobalMaxPooling2D:
            has_size = None not in call.inputs[0].shape[1:3]
            return "global max pooling" if has_size else None
        if operation_type is layers.Concatenate:
            return "concatenation"
        if operation_type is layers.ZeroPadding2D:
            return "padding"
        if operation_type in _RESHAPES and None not in call.outputs[0].shape[1:]:
            return "reshape"
        return None

    def _is_int8(self, edge: Edge) -> bool:
        step = self.producers.get(edge)
        return step is not None and step.is_int8 and step.output is edge

    def _only_reader(self, edge: Edge) -> Call | None:
        if edge.is_output or len(edge.consumers) != 1:
            return None
        return edge.consumers[0]


def _choose_scales(plan: Plan, ranges: Ranges) -> dict[Edge, Scale]:
    """Return the scale of each tensor that is needed in int8.

    Tensors that are pooled, concatenated or reshaped have the same scale before and
    after.
    """
    parents: dict[Edge, Edge] = {}

    def find(edge: Edge) -> Edge:
        while parents.setdefault(edge, edge) is not edge:
            edge = parents[edge]
        return edge

    # Whether the values of a tensor are negative, or may be for other inputs.
    signs: dict[Edge, bool] = {}
    for step in plan.steps:
        if not step.is_int8:
            continue
        for edge in step.inputs:
            find(edge)
            signs.setdefault(edge, ranges[edge][0] < 0)
        find(step.output)
        if step.linear is not None:
            signs[step.output] = not step.relu
        else:
            signs[step.output] = False
            for edge in step.inputs:
                parents[find(edge)] = find(step.output)
    groups: dict[Edge, list[Edge]] = {}
    for edge in list(parents):
        groups.setdefault(find(edge), []).append(edge)
    scales = {}
    for edges in groups.values():
        limit = max(abs(x) for edge in edges for x in ranges[edge])
        scale = Scale(float(limit) or 1.0, any(signs[edge] for edge in edges))
        scales.update(dict.fromkeys(edges, scale))
    return scales


def _read_padding(call: Call) -> list[tuple[int, int]]:
    operation: Any = call.operation
    return [tuple(pair) for pair in operation.padding]


def _ancestors(call: Call) -> set[Call]:
    """Return the calls that a call depends on, without itself."""
    found: set[Call] = set()
    pending = [x.producer for x in call.inputs]
    while pending:
        producer = pending.pop()
        if producer is not None and producer not in found:
            found.add(producer)
            pending += [x.producer for x in producer.inputs]
    return found


def _reason_for_float(call: Call, kind: str | None) -> str:
    if kind is not None:
        return "its input is float"
    if type(call.operation) is layers.Add:
        return (
            "int8 supports an addition only between a convolution without activation "
            "and a ReLU"
        )
    return f"{type(call.operation).__name__} is not supported in int8"
