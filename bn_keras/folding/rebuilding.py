"""A plain Keras model from a graph, with layers and variables of its own.

Knows how layers are copied; which weights are folded is decided elsewhere.
"""

import itertools
from typing import Any

import keras
from keras import layers, tree

from bn_keras.keras_graph import Edge, copy_stateless, copy_variables, layer_keys
from bn_keras.layer.scale_shift import ScaleShift


def build_model(graph):
    """A `keras.Model` with the graph's calls, inputs, outputs and their names.

    Raises:
        ValueError: for a layer that cannot be copied from its configuration.
    """
    tensors, inputs = {}, []
    for original, edge in zip(
        tree.flatten(graph.input_tensors), graph.inputs, strict=True
    ):
        layer = original._keras_history.operation
        tensor = layers.InputLayer.from_config(layer.get_config()).output
        tensor.name = original.name
        inputs.append(tensor)
        tensors[edge] = tensor
    keys = layer_keys(graph)
    names = _names(graph, keys)
    copies = {}
    for call in graph.calls:
        key = keys[call]
        fresh = key not in copies
        if fresh:
            copies[key] = _copy(call, names[key])
        if call.affine is not None:
            outputs = copies[key](tensors[call.inputs[0]])
        else:
            args, kwargs = call.arguments
            outputs = copies[key](*_filled(args, tensors), **_filled(kwargs, tensors))
        if fresh:
            _set_variables(copies[key], call)
        tensors.update(zip(call.outputs, tree.flatten(outputs), strict=True))
    structure = tree.pack_sequence_as(graph.input_tensors, inputs)
    outputs = _outputs(graph, tensors)
    model = keras.Model(
        structure,
        tree.pack_sequence_as(graph.output_structure, outputs),
        name=graph.name,
    )
    model(structure)  # Keras exports no model that was never called
    return model


def _filled(arguments, tensors) -> Any:
    return tree.map_structure(
        lambda x: tensors[x] if isinstance(x, Edge) else x, arguments
    )


def _outputs(graph, tensors):
    # Output names are those of the operations in front: where folding or inlining has
    # changed the operation, an identity bears the name.
    identities, outputs = {}, []
    for edge, name in zip(graph.outputs, graph.output_names, strict=True):
        tensor = tensors[edge]
        if tensor._keras_history.operation.name != name:
            if name not in identities:
                dtype = edge.dtype if "float" in edge.dtype else None
                identities[name] = layers.Identity(name=name, dtype=dtype)
            tensor = identities[name](tensor)
        outputs.append(tensor)
    return outputs


def _names(graph, keys):
    # A layer keeps its name if nobody else may claim it; copies and inlined layers
    # whose name is taken are named by their path.
    reserved = {
        *(x._keras_history.operation.name for x in tree.flatten(graph.input_tensors)),
        *graph.output_names,
    }
    # An output's name goes to the layer in front of every output of that name.
    claims = {}
    for edge, name in zip(graph.outputs, graph.output_names, strict=True):
        claims.setdefault(name, set()).add(keys.get(edge.producer))
    owners = {}
    for call in graph.calls:
        name, key = call.operation.name, keys[call]
        if name not in reserved or claims.get(name) == {key}:
            owners.setdefault(name, key)
    taken, names = reserved | set(owners), {}
    for call in graph.calls:
        key, name = keys[call], call.operation.name
        if key in names:
            continue
        if owners.get(name) != key:
            stem = call.path.replace("/", "_")
            candidates = (f"{stem}_{i}" if i else stem for i in itertools.count())
            name = next(one for one in candidates if one not in taken)
        names[key] = name
        taken.add(name)
    return names


def _copy(call, name):
    operation = call.operation
    if call.affine is not None:
        return ScaleShift(call.affine.axes, name=name, dtype=operation.dtype_policy)
    # The function of a Lambda would go through its configuration as bytecode.
    if not isinstance(operation, keras.Layer) or type(operation) is layers.Lambda:
        return copy_stateless(operation, name)
    try:
        config = {**operation.get_config(), "name": name}
        if call.weights is not None:
            config = _for_inference(config) | call.settings
        return type(operation).from_config(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            "Every layer must be copied by `from_config(get_config())`: complete the "
            f"layer's `get_config`. Received: {call.path!r} "
            f"({type(operation).__name__}), which raised: {reason}"
        ) from error


def _for_inference(config):
    for key in config:
        if key.endswith(("_constraint", "_regularizer")):
            config[key] = None
        elif key.endswith("_initializer"):
            config[key] = "zeros"
    return config


def _set_variables(layer, call):
    if call.affine is not None:
        weights = {"scale": call.affine.scale, "shift": call.affine.shift}
    else:
        weights = call.weights
    if weights is not None:
        for name, array in weights.items():
            variable = getattr(layer, name)
            # NumPy has no bfloat16 of its own: there the backend casts.
            exact = variable.dtype in ("float16", "float64")
            variable.assign(array.astype(variable.dtype if exact else "float32"))
    elif isinstance(layer, keras.Layer):
        copy_variables(call.operation, layer)
