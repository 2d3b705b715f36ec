"""A Keras model as a flat list of operation calls, with nested models inlined.

Attributes of Keras' layers and nodes that are not public are used in this package only.
"""

from bn_keras.keras_graph.copying import Copier, copy_variables
from bn_keras.keras_graph.graph import Call, Edge, Graph, layer_keys
from bn_keras.keras_graph.opening import sublayers
from bn_keras.keras_graph.reading import read_graph
from bn_keras.keras_graph.replacing import Replacer

__all__ = [
    "Call",
    "Copier",
    "Edge",
    "Graph",
    "Replacer",
    "copy_variables",
    "layer_keys",
    "read_graph",
    "sublayers",
]
