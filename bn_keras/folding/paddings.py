"""Zero padding in layers of its own, merged into the convolutions that read it."""

from keras import layers

from bn_keras.keras_graph import Call, Graph


def merge_paddings(graph: Graph) -> None:
    """Merge the padding of folded convolutions that is exactly `padding="same"`.

    Residual networks from PyTorch have such layers. Without the batch normalization
    behind the convolution, TensorFlow makes one operation of padding, convolution,
    addition and ReLU on a CPU, and a fault of TensorFlow 2.21 then ends the process in
    most runs (`tests/folding/test_paddings.py`).

    Args:
        graph: The graph, already folded. It is changed in place.
    """
    for call in list(graph.calls):
        padding = call.inputs[0].producer if len(call.inputs) == 1 else None
        if padding is not None and _is_same_padding(padding, call, graph):
            graph.remove(padding)
            call.settings = {**call.settings, "padding": "same"}


def _is_same_padding(padding: Call, call: Call, graph: Graph) -> bool:
    operation, layer = padding.operation, call.operation
    if (
        type(operation) is not layers.ZeroPadding2D
        or type(layer) is not layers.Conv2D
        or call.weights is None  # it is copied as it is
        or layer.padding != "valid"
        or tuple(layer.strides) != (1, 1)  # else "same" depends on the image's size
        or operation.data_format != layer.data_format
        or operation.compute_dtype != layer.compute_dtype
    ):
        return False
    (edge,) = padding.outputs
    is_shared = sum(other.operation is layer for other in graph.calls) > 1
    if edge.is_output or edge.consumers != [call] or is_shared:
        return False
    return all(
        before == after and before + after == (size - 1) * dilation
        for (before, after), size, dilation in zip(
            operation.padding, layer.kernel_size, layer.dilation_rate, strict=True
        )
    )
