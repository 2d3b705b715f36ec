"""The patterns by which batch normalizations move into linear layers.

Knows the graph and which operations an affine map passes; weights are `linear`'s.
"""

from dataclasses import dataclass, field

from bn_keras.folding import algebra, commuting
from bn_keras.folding.linear import (
    LINEAR,
    NotFoldableError,
    float64,
    fold_after,
    fold_before,
)
from bn_keras.folding.report import Entry, Report
from bn_keras.keras_graph import layer_keys, sublayers
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS


@dataclass(eq=False)
class Edit:
    """A change of one call, made if the whole plan succeeds."""

    call: object
    rule: str
    affine: algebra.Affine | None = None
    weights: dict | None = None
    settings: dict = field(default_factory=dict)


@dataclass(eq=False)
class Fate:
    """What has become of a batch normalization so far."""

    label: str
    into: list = field(default_factory=list)
    rule: str = ""
    kept: str = ""
    refusals: dict = field(default_factory=dict)


def fold(graph):
    """Move every batch normalization of a graph where it can go; change the graph.

    Returns:
        The `Report`.
    """
    fates, hidden = {}, {}
    for call in graph.calls:
        kind = type(call.operation)
        if isinstance(call.operation, BATCH_NORMALIZATIONS):
            fates[call] = Fate(call.label, kept=_reason_to_keep(call))
            if not fates[call].kept:
                call.affine = _affine(call)
            continue
        reason = f"it is inside {call.label!r} ({kind.__name__})"
        hidden[call] = [
            Fate(f"{call.label}/{layer.name}", kept=reason)
            for layer in sublayers(call.operation)
            if isinstance(layer, BATCH_NORMALIZATIONS)
        ]
    order = list(graph.calls)
    while _pass(graph, fates, "backward") or _pass(graph, fates, "forward"):
        pass
    entries = []
    unshared = _unshared(graph)
    for call in order:
        found = [fates[call]] if call in fates else hidden[call]
        entries.extend(_entry(fate, fates, unshared) for fate in found)
    return Report(tuple(entries))


def _pass(graph, fates, direction):
    folded = False
    calls = [call for call in graph.calls if call.affine is not None]
    for call in calls if direction == "backward" else calls[::-1]:
        (source,), (target,) = call.inputs, call.outputs
        try:
            if source.dtype != target.dtype:
                raise NotFoldableError(f"it turns {source.dtype} into {target.dtype}")
            if direction == "backward":
                edits = _backward(source, call.affine, ())
            else:
                edits = _forward(target, call.affine, ())
        except NotFoldableError as refusal:
            fates[call].refusals[direction] = str(refusal)
            continue
        for edit in edits:
            if edit.affine is not None:
                edit.call.affine = edit.affine
            else:
                edit.call.weights, edit.call.settings = edit.weights, edit.settings
        fates[call].into = [edit.call for edit in edits]
        fates[call].rule = "; ".join(dict.fromkeys(edit.rule for edit in edits))
        graph.remove(call)
        folded = True
    return folded


def _backward(edge, affine, passed):
    call = edge.producer
    if call is None:
        raise NotFoldableError("it stands behind a model input")
    if edge.is_output:
        raise NotFoldableError(f"the output of {call.label!r} is a model output too")
    if len(edge.consumers) > 1:
        raise NotFoldableError(f"the output of {call.label!r} is used elsewhere too")
    kind = type(call.operation)
    name = kind.__name__
    if call.affine is not None:
        rule = _rule("multiply-add", *passed, "BN")
        return [Edit(call, rule, affine=affine.after(call.affine))]
    if kind in LINEAR:
        rule = _rule(name, *passed, "BN")
        return [Edit(call, rule, None, *fold_after(call, affine))]
    return [
        edit
        for source, part in commuting.backward(call, affine)
        for edit in _backward(source, part, (name, *passed))
    ]


def _forward(edge, affine, passed):
    if edge.is_output:
        raise NotFoldableError("its output is a model output")
    if not edge.consumers:
        raise NotFoldableError("nothing reads its output")
    edits = []
    for call in edge.consumers:
        kind = type(call.operation)
        name = kind.__name__
        if call.inputs.count(edge) != 1:
            raise NotFoldableError(f"{call.label!r} ({name}) reads it other than once")
        if call.affine is not None:
            rule = _rule("BN", *passed, "multiply-add")
            edits.append(Edit(call, rule, affine=call.affine.after(affine)))
        elif kind in LINEAR:
            rule = _rule("BN", *passed, name)
            edits.append(Edit(call, rule, None, *fold_before(call, affine)))
        else:
            moved = commuting.forward(call, affine)
            edits += _forward(call.outputs[0], moved, (*passed, name))
    return edits


def _rule(*names):
    return f"{', '.join(names[:-1])}, then {names[-1]}"


def _affine(call):
    layer = call.operation
    rank = len(call.inputs[0].shape)
    axes = (layer.axis,) if isinstance(layer.axis, int) else layer.axis
    return algebra.affine_of_statistics(
        None if layer.gamma is None else float64(layer.gamma),
        None if layer.beta is None else float64(layer.beta),
        float64(layer.moving_mean),
        float64(layer.moving_variance),
        layer.epsilon,
        sorted(axis % rank for axis in axes),
    )


def _reason_to_keep(call):
    if type(call.operation) not in BATCH_NORMALIZATIONS:
        return f"{type(call.operation).__name__} may compute something else"
    if call.training not in (None, False):
        return f"it is called with training={call.training}"
    return ""


def _entry(fate, fates, unshared):
    if fate.kept:
        return Entry(fate.label, "kept", reason=fate.kept)
    if not fate.into:
        return Entry(fate.label, "multiply-add", reason=_reason(fate.refusals))
    into, rules = [], [fate.rule]
    pending = list(fate.into)
    while pending:
        call = pending.pop(0)
        further = fates.get(call)
        if further is not None and further.into:
            pending[:0] = further.into
            rules.append(further.rule)
        else:
            into.append(call.label)
            if call in unshared:
                rules.append("un-shared")
    return Entry(
        fate.label,
        "folded",
        tuple(dict.fromkeys(into)),
        "; ".join(dict.fromkeys(rules)),
    )


def _reason(refusals):
    return "; ".join(f"{refusals[key]} ({key})" for key in refusals)


def _unshared(graph):
    # The calls of once shared layers that now need copies of their own.
    keys, copies = layer_keys(graph), {}
    for call, key in keys.items():
        copies.setdefault(call.operation, set()).add(key)
    return {call for call in keys if len(copies[call.operation]) > 1}
