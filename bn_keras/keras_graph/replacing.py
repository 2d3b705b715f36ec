"""Copy a model, with other layers in place of some of its own."""

import copy
from collections.abc import Callable
from typing import Any

import keras
from keras import tree
from keras.src.models.functional import Functional
from keras.src.ops.function import Function

from bn_keras.keras_graph.copying import TRAINING_ATTRIBUTES, Copier
from bn_keras.keras_graph.opening import sublayers


class Replacer:
    """Copies a model of any kind: nested, subclassed, with wrappers or Python code.

    Models keep their classes, `train_step` included, and layers that are not replaced
    are copied as a whole, with their weights.

    Args:
        replace: Returns what takes the place of a layer, or None. It is asked once for
            each layer at any depth.
    """

    def __init__(self, replace: Callable[[Any], Any]) -> None:
        self._replace = replace
        self._copier = Copier()
        self._known: dict[int, tuple[Any, Any]] = {}  # by `id`: original and copy

    def copy_model(self, model: Any) -> Any:
        """Return the copy of a built model, compiled if the original is.

        Raises:
            ValueError: If a layer cannot be copied, or would share variables with the
                original.
        """
        self._ask(model)
        duplicate = self._copy(model)
        originals = {id(variable) for variable in model.variables}
        shared = [v.path for v in duplicate.variables if id(v) in originals]
        if shared:
            raise ValueError(
                "Every layer must be an attribute of the model, or in a list or "
                f"dictionary of its attributes. Received: variables {shared[:3]} that "
                "the copy would share with the original. Build the model with the "
                "other layers instead."
            )
        if isinstance(model, keras.Model) and model.compiled:
            arguments: Any = model._compile_config.config
            # Not the method of a subclass, which may take other arguments. What it sets
            # is among the attributes.
            settings: Any = tree.map_structure(_copy_setting, arguments)
            keras.Model.compile(duplicate, **settings)
        return duplicate

    def _ask(self, model: Any) -> None:
        for layer in [model, *sublayers(model)]:
            replacement = self._replace(layer)
            if replacement is not None:
                self._known[id(layer)] = layer, replacement

    def _copy(self, operation: Any) -> Any:
        if id(operation) not in self._known:
            if not any(id(x) in self._known for x in sublayers(operation)):
                duplicate = self._copier.copy(operation, operation.name)
            elif isinstance(operation, Function | keras.Sequential):
                duplicate = self._copy_graph(operation)
            else:
                inside = {layer: self._copy(layer) for layer in operation._layers}
                duplicate = self._copier.copy(operation, operation.name, inside)
            self._known[id(operation)] = operation, duplicate
        return self._known[id(operation)][1]

    def _copy_graph(self, model: Any) -> Any:
        """Copy a Functional or Sequential model, or one of a subclass of these."""
        kind = type(model)
        duplicate: Any = keras.Layer.__new__(kind)
        tensors = {}
        if isinstance(model, keras.Sequential):
            layers = [self._copy(layer) for layer in model._layers]
            keras.Sequential.__init__(duplicate, layers, name=model.name)
            if model._functional is not None and duplicate._functional is None:
                duplicate.build(model._functional.inputs[0].shape)
        else:
            inputs = []
            for tensor in model.inputs:
                inputs.append(self._copy(tensor._keras_history.operation).output)
                # The input of a model is named after the tensor, not after the layer.
                inputs[-1].name = tensor.name
                tensors[id(tensor)] = inputs[-1]
            outputs = model._run_through_graph(inputs, self._make_call)
            structure = tree.pack_sequence_as(model._inputs_struct, inputs)
            Functional.__init__(duplicate, structure, outputs, name=model.name)
        if kind not in (Functional, keras.Sequential):
            self._copy_other_attributes(model, duplicate)
        # The layers have their own `trainable`, which the setter would change.
        vars(duplicate)["_trainable"] = model._trainable
        return duplicate

    def _make_call(self, operation: Any) -> Any:
        duplicate = self._copy(operation)
        is_replaced = isinstance(operation, keras.Layer) and (
            type(operation) is not type(duplicate)
        )

        def call(*args, **kwargs):
            copied: Any = tree.map_structure(self._copy_of_variable, (args, kwargs))
            args, kwargs = copied
            if is_replaced:
                # `training` and `mask`, which not every layer takes.
                names = duplicate._call_signature.parameters
                kwargs = {key: kwargs[key] for key in kwargs if key in names}
            return duplicate(*args, **kwargs)

        return call

    def _copy_of_variable(self, value: Any) -> Any:
        """Return the copy of a variable that the graph uses directly."""
        if not isinstance(value, keras.Variable):
            return value
        for original, duplicate in self._known.values():
            for old, new in _paired_variables(original, duplicate):
                if old is value:
                    return new
        # The variable of a layer that is called later, or of none.
        raise ValueError(
            "Variables must be used after the layer that they belong to was called. "
            f"Received: {value.path!r}"
        )

    def _copy_other_attributes(self, model: Any, duplicate: Any) -> None:
        """Copy what the class of a model has added to a Functional one."""
        for layer in model._layers:  # also those that the graph does not call
            self._copy(layer)
        copies = {key: new for key, (_, new) in self._known.items()}
        copies |= {
            id(old): new
            for pair in list(self._known.values())
            for old, new in _paired_variables(*pair)
        }
        if isinstance(model, Function):
            pairs = zip(model.outputs, duplicate.outputs, strict=True)
            pairs = [*pairs, *zip(model.inputs, duplicate.inputs, strict=True)]
            copies |= {id(old): new for old, new in pairs}
        copies[id(model)] = duplicate
        for value in vars(model).values():
            if isinstance(value, keras.optimizers.Optimizer):
                copies[id(value)] = _copy_setting(value)
        own = {*vars(duplicate), *TRAINING_ATTRIBUTES}
        for name, value in vars(model).items():
            if name not in own:
                # Keras tracks layers and metrics among the attributes.
                setattr(duplicate, name, copy.deepcopy(value, copies))


def _paired_variables(original: Any, duplicate: Any) -> list[tuple[Any, Any]]:
    """Return the variables of a layer with their copies; of a replaced one, by name."""
    if not isinstance(original, keras.Layer):
        return []
    if type(original) is type(duplicate):
        return list(zip(original.variables, duplicate.variables, strict=False))
    new = {variable.name: variable for variable in duplicate.variables}
    return [(v, new[v.name]) for v in original.variables if v.name in new]


def _copy_setting(value: Any) -> Any:
    """Return a copy of an optimizer, loss or metric; anything else as it is."""
    kinds = (keras.optimizers.Optimizer, keras.losses.Loss, keras.metrics.Metric)
    if not isinstance(value, kinds):
        return value
    try:
        return type(value).from_config(value.get_config())
    except Exception:  # an incomplete configuration of the user's class
        return copy.deepcopy(value)
