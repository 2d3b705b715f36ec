"""Copy layers with all of their state."""

import copy
import inspect
import tempfile
from typing import Any

import keras
from keras import layers
from keras.src.ops.function import Function
from keras.src.utils.tracking import DotNotTrackScope, Tracker

from bn_keras.keras_graph.opening import sublayers


class Copier:
    """Copies layers; what several layers share, their copies share too."""

    def __init__(self) -> None:
        # The copies of layers and variables by the `id` of the original.
        self._copies: dict[int, Any] = {}

    def copy(
        self, operation: Any, name: str, replacements: dict[Any, Any] | None = None
    ) -> Any:
        """Return a copy of a layer or operation, without the calls it has recorded.

        Layers of Keras and of this package are built from their configuration. That of
        any other class may be incomplete, so its object is copied, attribute by
        attribute, and built from its configuration only if that is not possible.

        Args:
            operation: The layer or operation.
            name: The name of the copy.
            replacements: What takes the place of layers inside the layer, by layer.

        Raises:
            ValueError: If the layer can be copied in neither way.
        """
        known = self._copies.get(id(operation))
        if replacements:
            self._copies.update((id(old), new) for old, new in replacements.items())
            known = self._copy_attributes(operation, name)
        elif known is None:
            known = self._copy(operation, name)
            self._copies[id(operation)] = known
        known.name = name
        return known

    def _copy(self, operation: Any, name: str) -> Any:
        if not isinstance(operation, keras.Layer):
            # An operation of `keras.ops` has neither state nor configuration.
            # `copy.copy` would save and load it.
            duplicate: Any = keras.Operation.__new__(type(operation))
            vars(duplicate).update(vars(operation))
            duplicate._inbound_nodes, duplicate._outbound_nodes = [], []
            return duplicate
        problems = []
        ways = [self._copy_from_config, self._copy_attributes]
        # The configuration of a Lambda layer would turn its function into bytecode.
        if type(operation) is layers.Lambda or not all(
            map(_is_known, [operation, *sublayers(operation)])
        ):
            ways.reverse()
        for copy_layer in ways:
            # Both run code of the layer's class.
            try:
                return copy_layer(operation, name)
            except Exception as error:
                problems.append(" ".join(str(error).split())[:200])
        raise ValueError(
            "Every layer must be restorable by `from_config(get_config())`, or have "
            f"attributes that `copy.deepcopy` copies. Received: {operation.path!r} "
            f"({type(operation).__name__}), which raised: {'; '.join(problems)}. "
            "Complete the layer's `get_config`"
        )

    def _copy_from_config(self, layer: Any, name: str) -> Any:
        duplicate = type(layer).from_config({**layer.get_config(), "name": name})
        if layer.built and not duplicate.built:
            duplicate.build_from_config(layer.get_build_config() or {})
        copy_variables(layer, duplicate)
        return duplicate

    def _copy_attributes(self, layer: Any, name: str) -> Any:
        # What `copy.deepcopy` finds here by its `id`, it takes for copied.
        copies, pairs, pending = dict(self._copies), [], [layer]
        while pending:
            old = pending.pop()
            if id(old) in copies:
                continue
            if isinstance(old, Function):
                # The nodes of a Functional model are its definition.
                new = self._copy_from_config(old, old.name)
                inside = zip(sublayers(old), sublayers(new), strict=True)
                copies.update((id(x), y) for x, y in inside)
            else:
                new: Any = keras.Layer.__new__(type(old))
                pairs.append((old, new))
                copies.update(_shortcuts(old))
                pending += old._layers
            copies[id(old)] = new
        # Otherwise the copied lists and dictionaries would register their items again.
        with DotNotTrackScope():
            for old, new in pairs:
                for key, value in vars(old).items():
                    # `__new__` has made new ones of these, which refer to their object.
                    if key not in ("build", "quantize"):
                        vars(new)[key] = copy.deepcopy(value, copies)
        for old, new in pairs:
            _renew_identities(new._tracker)
            shared = [id(x) for x in (old, *old.variables) if id(x) in copies]
            self._copies.update((key, copies[key]) for key in shared)
        return copies[id(layer)]


def _shortcuts(layer: Any) -> dict[int, Any]:
    """Return what takes the place of attributes that are not to be copied."""
    # Nodes lead to the rest of the model.
    shortcuts: dict[int, Any] = {id(layer._inbound_nodes): []}
    shortcuts[id(layer._outbound_nodes)] = []
    for holder in [layer, *layer._seed_generators]:
        for key, value in vars(holder).items():
            if key in TRAINING_ATTRIBUTES and value is not None:
                shortcuts[id(value)] = None
            if inspect.ismodule(value):
                shortcuts[id(value)] = value
    return shortcuts


# What `compile` adds to a model.
TRAINING_ATTRIBUTES = {
    *("optimizer", "_compile_config", "_compile_loss", "_compile_metrics"),
    *("train_function", "test_function", "predict_function", "_loss_tracker"),
}


def copy_variables(source: Any, target: Any) -> None:
    """Copy weights, vocabularies and random states to a built layer of the same class.

    As in saving, it is the layers that say what their state is: some, such as
    `Normalization`, do not keep all of it in `weights`.
    """
    pairs = zip([source, *sublayers(source)], [target, *sublayers(target)], strict=True)
    for old, new in pairs:
        store = {}
        old.save_own_variables(store)
        if store:
            new.load_own_variables(store)
        _copy_assets(old, new)
    # Seeds of random numbers are variables, but not weights, and are not saved.
    weights = {id(variable) for variable in target.weights}
    for new, old in zip(target.variables, source.variables, strict=True):
        if id(new) not in weights:
            new.assign(old.value)


def _copy_assets(source: Any, target: Any) -> None:
    if isinstance(source, layers.StringLookup | layers.IntegerLookup):
        _copy_vocabulary(source, target)
    elif isinstance(source, layers.TextVectorization):
        _copy_vocabulary(source._lookup_layer, target._lookup_layer)
    elif hasattr(source, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            source.save_assets(folder)
            target.load_assets(folder)


def _copy_vocabulary(source: Any, target: Any) -> None:
    # The file that these layers save has a word on each line, which is wrong for words
    # with a line separator. Words that were given as a list are in the configuration.
    if source.input_vocabulary is None and source.get_vocabulary(False):
        weights = None
        if source.output_mode == "tf_idf":
            weights = source.idf_weights_const.numpy()
        target.set_vocabulary(source.get_vocabulary(), weights)


def _is_known(layer: Any) -> bool:
    return type(layer).__module__.startswith(("keras.src.", "bn_keras."))


def _renew_identities(tracker: Tracker) -> None:
    # The tracker knows what it has registered by `id`.
    tracker.stored_ids = {
        name: {id(value) for value in values}
        for name, (_, values) in tracker.config.items()
    }
