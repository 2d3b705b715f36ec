"""Decide into which linear layers each batch normalization is folded."""

from dataclasses import dataclass, field
from typing import Any, Literal

from bn_keras.folding import algebra, commuting_rules
from bn_keras.folding.algebra import Affine
from bn_keras.folding.linear_rules import (
    LINEAR,
    NotFoldableError,
    fold_after,
    fold_before,
    to_float64,
)
from bn_keras.folding.report import Entry, Report
from bn_keras.keras_graph import Call, Edge, Graph, layer_keys, sublayers
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS

Direction = Literal["backward", "forward"]


@dataclass(eq=False)
class Edit:
    """A change to one call, to be made if all changes of the same plan are possible.

    Args:
        call: The call to change.
        rule: The pattern that applies.
        affine: The new map of a multiply-add, or None for a linear layer.
        weights: The new weights of a linear layer.
        settings: Its constructor arguments to change.
    """

    call: Call
    rule: str
    affine: Affine | None = None
    weights: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Progress:
    """What has happened to one call of a batch normalization so far.

    Args:
        label: The label of the call.
        reason_to_keep: Why the layer stays a batch normalization; empty if it does not.
        into: The calls that absorbed it.
        rule: The pattern that was applied.
        refusals: For each direction that was tried, why it was not possible.
    """

    label: str
    reason_to_keep: str = ""
    into: list[Call] = field(default_factory=list)
    rule: str = ""
    refusals: dict[Direction, str] = field(default_factory=dict)


def fold_graph(graph: Graph) -> Report:
    """Fold every batch normalization of a graph as far as possible.

    Args:
        graph: The graph. It is changed in place.

    Returns:
        The report.
    """
    progress, inside_layers = {}, {}
    for call in graph.calls:
        layer = call.operation
        if isinstance(layer, BATCH_NORMALIZATIONS):
            progress[call] = Progress(call.label, _reason_to_keep(call))
            if not progress[call].reason_to_keep:
                # From here on the call counts as a multiply-add. If it cannot be
                # folded, it stays one.
                call.affine = _read_affine(call)
            continue
        # Layers such as `TimeDistributed` and RNN cells hide their layers from the
        # graph; the report lists them nevertheless.
        reason = f"it is inside {call.label!r} ({type(layer).__name__})"
        inside_layers[call] = [
            Progress(f"{call.label}/{sublayer.name}", reason)
            for sublayer in sublayers(layer)
            if isinstance(sublayer, BATCH_NORMALIZATIONS)
        ]
    calls_in_order = list(graph.calls)
    # A fold in one direction can make room for others in the other direction, so both
    # are repeated until neither changes anything. Each pass that returns True removes
    # a multiply-add, so this ends.
    while _fold_all(graph, progress, "backward") or _fold_all(
        graph, progress, "forward"
    ):
        pass
    entries = []
    unshared = _find_unshared_calls(graph)
    for call in calls_in_order:
        reported = [progress[call]] if call in progress else inside_layers[call]
        entries.extend(_make_entry(x, progress, unshared) for x in reported)
    return Report(tuple(entries))


def _fold_all(
    graph: Graph, progress: dict[Call, Progress], direction: Direction
) -> bool:
    """Fold each multiply-add once in one direction; return whether any was folded."""
    folded_any = False
    multiply_adds = [call for call in graph.calls if call.affine is not None]
    # Begin with the one closest to the linear layers in that direction, so that of two
    # in a row both are folded in the same pass.
    for call in multiply_adds if direction == "backward" else multiply_adds[::-1]:
        (source,), (target,) = call.inputs, call.outputs
        try:
            # Without the multiply-add nothing would cast the values.
            if source.dtype != target.dtype:
                raise NotFoldableError(
                    f"it converts {source.dtype} into {target.dtype}"
                )
            # First collect all edits: a map that splits at a concatenation must reach
            # a linear layer in every branch, or nothing may change.
            if direction == "backward":
                edits = _plan_backward(source, call.affine, ())
            else:
                edits = _plan_forward(target, call.affine, ())
        except NotFoldableError as refusal:
            progress[call].refusals[direction] = str(refusal)
            continue
        for edit in edits:
            if edit.affine is not None:
                edit.call.affine = edit.affine
            else:
                edit.call.weights, edit.call.settings = edit.weights, edit.settings
        progress[call].into = [edit.call for edit in edits]
        progress[call].rule = "; ".join(dict.fromkeys(edit.rule for edit in edits))
        graph.remove(call)
        folded_any = True
    return folded_any


def _plan_backward(edge: Edge, affine: Affine, passed: tuple[str, ...]) -> list[Edit]:
    """Return the edits that apply a map to the tensor of an edge.

    Args:
        edge: The edge.
        affine: The map, along axes of the edge's tensor.
        passed: The types of the operations that the map has passed, last one first.
    """
    call = edge.producer
    if call is None:
        raise NotFoldableError("it follows a model input")
    # Whoever else reads the tensor must still get it without the map.
    if edge.is_output:
        raise NotFoldableError(f"the output of {call.label!r} is also a model output")
    if len(edge.consumers) > 1:
        raise NotFoldableError(f"the output of {call.label!r} is also used elsewhere")
    operation_type = type(call.operation)
    name = operation_type.__name__
    # Ask for the map first: the operation of a multiply-add is still the original
    # batch normalization.
    if call.affine is not None:
        rule = _rule_name("multiply-add", *passed, "BN")
        return [Edit(call, rule, affine=affine.after(call.affine))]
    if operation_type in LINEAR:
        rule = _rule_name(name, *passed, "BN")
        return [Edit(call, rule, None, *fold_after(call, affine))]
    return [
        edit
        for source, source_affine in commuting_rules.move_backward(call, affine)
        for edit in _plan_backward(source, source_affine, (name, *passed))
    ]


def _plan_forward(edge: Edge, affine: Affine, passed: tuple[str, ...]) -> list[Edit]:
    """Return the edits with which all consumers of an edge apply a map themselves."""
    if edge.is_output:
        raise NotFoldableError("its output is a model output")
    if not edge.consumers:
        raise NotFoldableError("nothing uses its output")
    edits = []
    for call in edge.consumers:
        operation_type = type(call.operation)
        name = operation_type.__name__
        # Two arguments from one edge (`x + x`) would need the map in both; no argument
        # means that the edge is a mask only.
        if call.inputs.count(edge) != 1:
            raise NotFoldableError(
                f"{call.label!r} ({name}) does not use it exactly once"
            )
        if call.affine is not None:
            rule = _rule_name("BN", *passed, "multiply-add")
            edits.append(Edit(call, rule, affine=call.affine.after(affine)))
        elif operation_type in LINEAR:
            rule = _rule_name("BN", *passed, name)
            edits.append(Edit(call, rule, None, *fold_before(call, affine)))
        else:
            moved = commuting_rules.move_forward(call, affine)
            edits += _plan_forward(call.outputs[0], moved, (*passed, name))
    return edits


def _rule_name(*names: str) -> str:
    return f"{', '.join(names[:-1])}, then {names[-1]}"


def _read_affine(call: Call) -> Affine:
    layer = call.operation
    rank = len(call.inputs[0].shape)
    axes = (layer.axis,) if isinstance(layer.axis, int) else layer.axis
    return algebra.affine_from_statistics(
        None if layer.gamma is None else to_float64(layer.gamma),
        None if layer.beta is None else to_float64(layer.beta),
        to_float64(layer.moving_mean),
        to_float64(layer.moving_variance),
        layer.epsilon,
        sorted(axis % rank for axis in axes),
    )


def _reason_to_keep(call: Call) -> str:
    # A subclass may override `call`.
    if type(call.operation) not in BATCH_NORMALIZATIONS:
        return f"{type(call.operation).__name__} may compute something else"
    if call.training not in (None, False):
        return f"it is called with training={call.training}"
    return ""


def _make_entry(
    progress: Progress, all_progress: dict[Call, Progress], unshared: set[Call]
) -> Entry:
    if progress.reason_to_keep:
        return Entry(progress.label, "kept", reason=progress.reason_to_keep)
    if not progress.into:
        reason = "; ".join(f"{why} ({way})" for way, why in progress.refusals.items())
        return Entry(progress.label, "multiply-add", reason=reason)
    # A batch normalization that was folded into a multiply-add may have moved on with
    # it; follow it to the layers where it is now.
    into, rules = [], [progress.rule]
    pending = list(progress.into)
    while pending:
        call = pending.pop(0)
        next_progress = all_progress.get(call)
        if next_progress is not None and next_progress.into:
            pending[:0] = next_progress.into
            rules.append(next_progress.rule)
        else:
            into.append(call.label)
            if call in unshared:
                rules.append("un-shared")
    return Entry(
        progress.label,
        "folded",
        tuple(dict.fromkeys(into)),
        "; ".join(dict.fromkeys(rules)),
    )


def _find_unshared_calls(graph: Graph) -> set[Call]:
    """Return the calls of layers that were shared but now need different weights."""
    keys = layer_keys(graph)
    keys_by_layer: dict[Any, set[Any]] = {}
    for call, key in keys.items():
        keys_by_layer.setdefault(call.operation, set()).add(key)
    return {call for call in keys if len(keys_by_layer[call.operation]) > 1}
