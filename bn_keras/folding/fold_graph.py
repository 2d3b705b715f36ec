"""Decide into which linear layers each batch normalization is folded."""

from dataclasses import dataclass, field
from typing import Any, Literal

from keras import layers

from bn_keras.folding.algebra import Affine
from bn_keras.folding.linear_rules import NotFoldableError, fold_after
from bn_keras.folding.normalizations import (
    count_deviations,
    describe_lost_digits,
    loses_digits,
    normalization_layer,
    read_affine,
)
from bn_keras.folding.paddings import merge_paddings
from bn_keras.folding.planning import plan_backward, plan_forward
from bn_keras.folding.report import Entry, Report
from bn_keras.keras_graph import Call, Edge, Graph, layer_keys, sublayers
from bn_keras.layer.batch_normalization import BATCH_NORMALIZATIONS

Direction = Literal["backward", "forward"]


@dataclass(eq=False)
class Progress:
    """What has happened to one call of a batch normalization so far.

    Args:
        label: The label of the call.
        reason_to_keep: Why the layer stays a batch normalization; empty if it does not.
        into: The calls that absorbed it.
        rule: The pattern that was applied.
        refusals: For each direction that was tried, why it was not possible.
        deviations: How many standard deviations the mean is from zero, where the shift
            is added now.
        standard: The map without gamma and beta.
    """

    label: str
    reason_to_keep: str = ""
    into: list[Call] = field(default_factory=list)
    rule: str = ""
    refusals: dict[Direction, str] = field(default_factory=dict)
    deviations: float = 0.0
    standard: Affine | None = None


def fold_graph(graph: Graph, prefix: str = "") -> Report:
    """Fold every batch normalization of a graph as far as possible.

    Args:
        graph: The graph. It is changed in place.
        prefix: What the report prepends to the paths of the layers.

    Returns:
        The report.
    """
    progress, inside_layers = {}, {}
    for call in graph.calls:
        layer = normalization_layer(call.operation)
        if layer is not None:
            label = prefix + call.label
            if layer is not call.operation:
                label = f"{label}/{layer.name}"
            progress[call] = Progress(label, _reason_to_keep(call))
            if not progress[call].reason_to_keep:
                # From here on the call counts as a multiply-add. If it cannot be
                # folded, it stays one.
                call.affine = read_affine(call)
                standard = read_affine(call, standard=True)
                progress[call].standard = standard
                progress[call].deviations = count_deviations(standard.shift)
        else:
            inside_layers[call] = _report_inside(call, prefix)
    calls_in_order = list(graph.calls)
    _copy_shared_outputs(graph)
    # A fold in one direction can make room for others in the other direction, so both
    # are repeated until neither changes anything. Each pass that returns True removes
    # a multiply-add, so this ends.
    while _fold_all(graph, progress, "backward") or _fold_all(
        graph, progress, "forward"
    ):
        pass
    entries, warnings = [], []
    unshared = _find_unshared_calls(graph)
    for call in calls_in_order:
        if call in progress:
            entries.append(_make_entry(progress[call], progress, unshared, prefix))
            dtype, deviations = call.inputs[0].dtype, progress[call].deviations
            if loses_digits(dtype, deviations):
                warnings.append(
                    describe_lost_digits(progress[call].label, dtype, deviations)
                )
        else:
            entries += inside_layers[call].entries
            warnings += inside_layers[call].warnings
    merge_paddings(graph)
    return Report(tuple(entries), tuple(warnings))


def _report_inside(call: Call, prefix: str) -> Report:
    """Fold the graphs inside a call, and report the layers that no graph shows."""
    path = f"{prefix}{call.label}/"
    reports = [
        fold_graph(inner, f"{path}{layer.name}/") for layer, inner in call.inner.items()
    ]
    shown = {id(x) for layer in call.inner for x in sublayers(layer)}
    # RNN cells, for example, hide their layers from the graph.
    reason = f"it is inside {call.label!r} ({type(call.operation).__name__})"
    if call.reason_closed:
        reason = f"{reason}, which cannot be opened: {call.reason_closed}"
    hidden = [
        Entry(path + layer.name, "kept", reason=reason)
        for layer in sublayers(call.operation)
        if isinstance(layer, BATCH_NORMALIZATIONS) and id(layer) not in shown
    ]
    return Report(
        (*(x for report in reports for x in report.entries), *hidden),
        tuple(x for report in reports for x in report.warnings),
    )


def _copy_shared_outputs(graph: Graph) -> None:
    """Let a dense layer that several batch normalizations read be called for each.

    That costs one more product with a matrix. For a convolution it would cost far more
    than the multiply-add that it saves.
    """
    for call in list(graph.calls):
        readers = call.outputs[0].consumers
        if (
            type(call.operation) not in (layers.Dense, layers.EinsumDense)
            or call.outputs[0].is_output
            or len(readers) < 2
            or any(reader.affine is None for reader in readers)
        ):
            continue
        try:
            for reader in readers:
                _require_same_dtype(reader)
                fold_after(call, reader.affine)
        except NotFoldableError:
            continue
        for reader in readers[1:]:
            graph.copy_call(call, reader)


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
            _require_same_dtype(call)
            # First collect all edits: a map that splits at a concatenation must reach
            # a linear layer in every branch, or nothing may change.
            if direction == "backward":
                edits = plan_backward(source, call.affine, ())
                if loses_digits(source.dtype, progress[call].deviations):
                    _update_deviations(source, progress[call])
            else:
                edits = plan_forward(target, call.affine, ())
        except NotFoldableError as refusal:
            progress[call].refusals[direction] = str(refusal)
            continue
        for edit in edits:
            if edit.removes:
                graph.remove(edit.call)
            elif edit.affine is not None:
                edit.call.affine = edit.affine
            else:
                edit.call.weights, edit.call.settings = edit.weights, edit.settings
        edits = [edit for edit in edits if not edit.removes]
        progress[call].into = [edit.call for edit in edits]
        progress[call].rule = "; ".join(dict.fromkeys(edit.rule for edit in edits))
        graph.remove(call)
        folded_any = True
    return folded_any


def _update_deviations(source: Edge, progress: Progress) -> None:
    # The bias of the layer before it may be most of the mean, as in `dense(x) + 1e6`.
    # In float64 the two cancel exactly.
    assert progress.standard is not None
    shifts = []
    for edit in plan_backward(source, progress.standard, ()):
        if edit.affine is not None:
            shifts.append(edit.affine.shift)
        elif edit.weights is not None and "bias" in edit.weights:
            shifts.append(edit.weights["bias"])
    progress.deviations = max(map(count_deviations, shifts), default=0.0)


def _require_same_dtype(call: Call) -> None:
    # Without the multiply-add nothing would cast the values.
    (source,), (target,) = call.inputs, call.outputs
    if source.dtype != target.dtype:
        raise NotFoldableError(f"it converts {source.dtype} into {target.dtype}")


def _reason_to_keep(call: Call) -> str:
    layer = normalization_layer(call.operation)
    # A subclass may override `call`.
    if type(layer) not in BATCH_NORMALIZATIONS:
        return f"{type(layer).__name__} is a subclass that may compute something else"
    if call.training not in (None, False):
        return f"it is called with training={call.training}"
    return ""


def _make_entry(
    progress: Progress,
    all_progress: dict[Call, Progress],
    unshared: set[Call],
    prefix: str,
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
            into.append(prefix + call.label)
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
