"""Build a Keras model from a graph, with its own layers and variables."""

import itertools
from collections.abc import Hashable, Mapping
from typing import Any

import keras
from keras import layers, tree

from bn_keras.folding.algebra import Affine
from bn_keras.folding.linear_rules import linear_layer
from bn_keras.keras_graph import Call, Copier, Edge, Graph, layer_keys
from bn_keras.layer.scale_shift import ScaleShift

Tensors = dict[Edge, keras.KerasTensor]
LayerKeys = Mapping[Call, Hashable]


def rebuild_model(graph: Graph) -> keras.Model:
    """Return a model with the graph's calls, and its inputs and outputs by their names.

    Raises:
        ValueError: If a layer cannot be copied from its configuration.
    """
    tensors: Tensors = {}
    inputs = []
    for original, edge in zip(
        tree.flatten(graph.input_tensors), graph.inputs, strict=True
    ):
        layer = original._keras_history.operation
        tensor: Any = layers.InputLayer.from_config(layer.get_config()).output
        # The model's input is named after the tensor, not after the layer.
        tensor.name = original.name
        inputs.append(tensor)
        tensors[edge] = tensor
    keys = layer_keys(graph)
    names = _choose_names(graph, keys)
    copier, copies = Copier(), {}
    for call in graph.calls:
        key = keys[call]
        is_new = key not in copies
        if is_new:
            copies[key] = _make_operation(call, names[key], copier)
        if call.affine is not None:
            outputs = copies[key](tensors[call.inputs[0]])
        else:
            args, kwargs = _fill_in(call.arguments, tensors)
            outputs = copies[key](*args, **kwargs)
        # These layers create their variables in the first call.
        if is_new:
            _set_changed_variables(copies[key], call)
        call.weights = None  # in float64: those of all layers are twice the model
        tensors.update(zip(call.outputs, tree.flatten(outputs), strict=True))
    structure = tree.pack_sequence_as(graph.input_tensors, inputs)
    outputs = _restore_output_names(graph, tensors)
    model = keras.Model(
        structure,
        tree.pack_sequence_as(graph.output_structure, outputs),
        name=graph.name,
    )
    model(structure)  # Keras cannot export a model that was never called.
    return model


def _fill_in(arguments: Any, tensors: Tensors) -> Any:
    def fill_in(argument: Any) -> Any:
        if isinstance(argument, Edge):
            return tensors[argument]
        # A variable belongs to the original model.
        if isinstance(argument, keras.Variable):
            return keras.ops.convert_to_numpy(argument)
        return argument

    return tree.map_structure(fill_in, arguments)


def _restore_output_names(graph: Graph, tensors: Tensors) -> list[keras.KerasTensor]:
    # Keras names an output after the operation that produces it. Folding and inlining
    # may have removed that operation; then an identity layer takes its name.
    identities, outputs = {}, []
    for edge, name in zip(graph.outputs, graph.output_names, strict=True):
        tensor = tensors[edge]
        if tensor._keras_history.operation.name != name:
            if name not in identities:
                # A policy of the global dtype would cast, say, float64 outputs.
                dtype = edge.dtype if "float" in edge.dtype else None
                identities[name] = layers.Identity(name=name, dtype=dtype)
            tensor = identities[name](tensor)
        outputs.append(tensor)
    return outputs


def _choose_names(graph: Graph, keys: LayerKeys) -> dict[Hashable, str]:
    """Return a unique name for each layer of the new model, by its key.

    A layer keeps its name unless another layer has a better claim to it. Otherwise,
    as for the second copy of a layer that was shared, its path becomes the name.
    """
    reserved = {
        *(x._keras_history.operation.name for x in tree.flatten(graph.input_tensors)),
        *graph.output_names,
    }
    # A layer may keep the name of an output only if it produces every output of that
    # name. In all other cases an identity layer needs the name.
    output_keys = {}
    for edge, name in zip(graph.outputs, graph.output_names, strict=True):
        key = None if edge.producer is None else keys[edge.producer]
        output_keys.setdefault(name, set()).add(key)
    owners = {}
    for call in graph.calls:
        name, key = call.operation.name, keys[call]
        if name not in reserved or output_keys.get(name) == {key}:
            owners.setdefault(name, key)
    taken, names = reserved | set(owners), {}
    for call in graph.calls:
        key, name = keys[call], call.operation.name
        if key in names:
            continue
        if owners.get(name) != key:
            stem = call.path.replace("/", "_")
            candidates = (f"{stem}_{i}" if i else stem for i in itertools.count())
            name = next(x for x in candidates if x not in taken)
        names[key] = name
        taken.add(name)
    return names


def _make_operation(call: Call, name: str, copier: Copier) -> Any:
    operation = call.operation
    if call.affine is not None:
        return _make_multiply_add(call, call.affine, name)
    if call.weights is None:
        inner = {layer: rebuild_model(graph) for layer, graph in call.inner.items()}
        return copier.copy(operation, name, inner)
    layer = linear_layer(operation)
    config = _strip_training_settings(layer.get_config()) | call.settings
    if layer is operation:
        return type(layer).from_config({**config, "name": name})
    return layers.TimeDistributed(
        type(layer).from_config(config), name=name, dtype=operation.dtype_policy
    )


def _make_multiply_add(call: Call, affine: Affine, name: str) -> Any:
    dtype = call.operation.dtype_policy
    # Keras' own layer computes the same, but along the last axis and not in float32.
    if (
        affine.axes == (len(call.inputs[0].shape) - 1,)
        and dtype.compute_dtype == dtype.variable_dtype
        and dtype.compute_dtype in ("float32", "float64")
        and keras.config.image_data_format() == "channels_last"
    ):
        # `Any`, because Keras declares numbers; it takes arrays, too.
        constants: list[Any] = [
            array.astype(dtype.compute_dtype) for array in (affine.scale, affine.shift)
        ]
        return layers.Rescaling(*constants, name=name, dtype=dtype)
    return ScaleShift(affine.axes, name=name, dtype=dtype)


def _strip_training_settings(config: dict[str, Any]) -> dict[str, Any]:
    # Constraints would change the folded weights, and initial values are overwritten.
    for key in config:
        if key.endswith(("_constraint", "_regularizer")):
            config[key] = None
        elif key.endswith("_initializer"):
            config[key] = "zeros"
    return config


def _set_changed_variables(layer: Any, call: Call) -> None:
    if isinstance(layer, ScaleShift) and call.affine is not None:
        weights = {"scale": call.affine.scale, "shift": call.affine.shift}
    elif call.weights is not None and call.affine is None:
        layer, weights = linear_layer(layer), call.weights
    else:
        return
    for name, array in weights.items():
        variable = getattr(layer, name)
        # NumPy has no bfloat16, so the backend casts to it from float32.
        in_numpy = variable.dtype in ("float16", "float64")
        variable.assign(array.astype(variable.dtype if in_numpy else "float32"))
