"""Plan to which calls the map of a batch normalization goes, with which weights."""

from dataclasses import dataclass, field
from typing import Any

from keras import layers

from bn_keras.folding import commuting_rules
from bn_keras.folding.algebra import Affine
from bn_keras.folding.constant_rules import read_constants
from bn_keras.folding.linear_rules import (
    NotFoldableError,
    fold_after,
    fold_before,
    linear_layer,
)
from bn_keras.keras_graph import Call, Edge


@dataclass(eq=False)
class Edit:
    """A change to one call, to be made if all changes of the same plan are possible.

    Args:
        call: The call to change.
        rule: The pattern that applies.
        affine: The new map of a multiply-add, or None for a linear layer.
        weights: The new weights of a linear layer.
        settings: Its constructor arguments to change.
        removes: Whether the call goes, because its constants are part of the map.
    """

    call: Call
    rule: str
    affine: Affine | None = None
    weights: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    removes: bool = False


def plan_backward(edge: Edge, affine: Affine, passed: tuple[str, ...]) -> list[Edit]:
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
    name = _type_name(call)
    # Ask for the map first: the operation of a multiply-add is still the original
    # batch normalization.
    if call.affine is not None:
        rule = _rule_name("multiply-add", *passed, "BN")
        return [Edit(call, rule, affine=affine.after(call.affine))]
    if linear_layer(call.operation) is not None:
        rule = _rule_name(name, *passed, "BN")
        return [Edit(call, rule, None, *fold_after(call, affine))]
    constants = read_constants(call)
    if constants is not None:
        whole = affine.after(constants)
        edits = plan_backward(call.inputs[0], whole, (name, *passed))
        return [Edit(call, "", removes=True), *edits]
    return [
        edit
        for source, source_affine in commuting_rules.move_backward(call, affine)
        for edit in plan_backward(source, source_affine, (name, *passed))
    ]


def plan_forward(edge: Edge, affine: Affine, passed: tuple[str, ...]) -> list[Edit]:
    """Return the edits with which all consumers of an edge apply a map themselves."""
    if edge.is_output:
        raise NotFoldableError("its output is a model output")
    if not edge.consumers:
        raise NotFoldableError("nothing uses its output")
    edits = []
    for call in edge.consumers:
        name = _type_name(call)
        # Two arguments from one edge (`x + x`) would need the map in both; no argument
        # means that the edge is a mask only.
        if call.inputs.count(edge) != 1:
            raise NotFoldableError(
                f"{call.label!r} ({name}) does not use it exactly once"
            )
        if call.affine is not None:
            rule = _rule_name("BN", *passed, "multiply-add")
            edits.append(Edit(call, rule, affine=call.affine.after(affine)))
        elif linear_layer(call.operation) is not None:
            rule = _rule_name("BN", *passed, name)
            edits.append(Edit(call, rule, None, *fold_before(call, affine)))
        elif (constants := read_constants(call)) is not None:
            whole = constants.after(affine)
            edits += plan_forward(call.outputs[0], whole, (*passed, name))
            edits.append(Edit(call, "", removes=True))
        else:
            moved = commuting_rules.move_forward(call, affine)
            edits += plan_forward(call.outputs[0], moved, (*passed, name))
    return edits


def _type_name(call: Call) -> str:
    name = type(call.operation).__name__
    if type(call.operation) is layers.TimeDistributed:
        return f"{name}({type(call.operation.layer).__name__})"
    return name


def _rule_name(*names: str) -> str:
    return f"{', '.join(names[:-1])}, then {names[-1]}"
