"""Store the weights of a graph: as variables in files of their own, or as constants."""

import hashlib
import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from bn_keras.export.tracing import LARGE, TracedModel

# A protobuf message has at most 2 GiB; the rest of the graph is small.
LARGEST_CONSTANTS = 2**31 - 2**26


class WeightStorage:
    """The weights of the current graph, and the operations that restore them.

    Every signature is run by an executor of its own, which copies constants; all of
    them read the same variables.

    Args:
        constants: Whether weights are constants of the graph. Otherwise those of at
            least 16 kB are variables.
    """

    def __init__(self, constants: bool) -> None:
        self._constants = constants
        # The content of the files, by key.
        self._saved: dict[str, Any] = {}
        self._variable_definitions: list[Any] = []
        self._saver_definition: Any = None

    def add(self, traced: TracedModel) -> dict[str, Any]:
        """Add the weights, variables and tables of a model to the current graph.

        Returns:
            Their tensors, by the names of the tensors that they replace.

        Raises:
            ValueError: If the weights are constants, and too many for one file.
        """
        import tensorflow as tf

        size = sum(map(_bytes, traced.weights.values()))
        if self._constants and size > LARGEST_CONSTANTS:
            raise ValueError(
                "Weights that are constants of the graph must have at most "
                f"{LARGEST_CONSTANTS:,} bytes. Received: {size:,} bytes. Export "
                "without `constants=True`"
            )
        tensors: dict[str, Any] = {}
        # `variable, handle, key` and `table, key` for the operations that restore.
        variables: list[tuple[Any, Any, str]] = []
        tables: list[tuple[Any, str]] = []

        def add_variable(name: str, value: Any) -> Any:
            handle = tf.raw_ops.VarHandleOp(
                dtype=value.dtype, shape=value.shape, shared_name=name, name=name
            )
            self._saved[name] = value
            read = tf.raw_ops.ReadVariableOp(
                resource=handle, dtype=value.dtype, name=f"{name}/read"
            )
            variables.append((handle, read, name))
            return handle, read

        names = _unique_names(traced)
        for tensor, value in traced.weights.items():
            if self._constants or _bytes(value) < LARGE:
                array = value.numpy()
                if value.dtype.is_quantized:  # NumPy's type is that of the integers
                    array = array.view(value.dtype.as_numpy_dtype)
                tensors[tensor] = tf.constant(array, name=names[tensor])
            else:
                tensors[tensor] = add_variable(names[tensor], value)[1]
        for tensor, value in traced.variables.items():
            tensors[tensor] = add_variable(names[tensor], value)[0]
        for tensor, (keys, values) in traced.tables.items():
            name = names[tensor]
            self._saved |= {f"{name}/keys": keys, f"{name}/values": values}
            tensors[tensor] = tf.raw_ops.HashTableV2(
                key_dtype=keys.dtype,
                value_dtype=values.dtype,
                shared_name=name,
                name=name,
            )
            tables.append((tensors[tensor], name))
        if self._saved:
            self._add_restoring(variables, tables)
        return tensors

    def _add_restoring(
        self, variables: list[tuple[Any, Any, str]], tables: list[tuple[Any, str]]
    ) -> None:
        """Add the operation that a session runs after loading the graph."""
        import tensorflow as tf
        from tensorflow.core.framework import variable_pb2
        from tensorflow.core.protobuf import saver_pb2

        with tf.name_scope("restore"):
            prefix = tf.compat.v1.placeholder_with_default("", (), "prefix")
            restored = dict(
                zip(
                    self._saved,
                    tf.raw_ops.RestoreV2(
                        prefix=prefix,
                        tensor_names=list(self._saved),
                        shape_and_slices=[""] * len(self._saved),
                        dtypes=[x.dtype for x in self._saved.values()],
                    ),
                    strict=True,
                )
            )
            assignments = []
            for handle, read, name in variables:
                assignment = tf.raw_ops.AssignVariableOp(
                    resource=handle, value=restored[name]
                )
                assignments.append(assignment)
                # With these, `tf.saved_model.load` releases the memory of the variables
                # together with the object that it returns.
                self._variable_definitions.append(
                    variable_pb2.VariableDef(
                        variable_name=handle.name,
                        initializer_name=assignment.name,
                        snapshot_name=read.name,
                        is_resource=True,
                    )
                )
            for table, name in tables:
                assignments.append(
                    tf.raw_ops.LookupTableImportV2(
                        table_handle=table,
                        keys=restored[f"{name}/keys"],
                        values=restored[f"{name}/values"],
                    )
                )
            done = tf.group(*assignments, name="all")
        self._saver_definition = saver_pb2.SaverDef(
            filename_tensor_name=prefix.name,
            # Loaders require the name of an operation that saves, but never run it.
            save_tensor_name=prefix.name,
            restore_op_name=done.name,
            version=saver_pb2.SaverDef.V2,
        )

    def describe(self, meta_graph: Any) -> None:
        """Tell the loaders of a `MetaGraphDef` how to restore the weights."""
        if self._saver_definition is not None:
            meta_graph.saver_def.CopyFrom(self._saver_definition)
        if self._variable_definitions:
            meta_graph.collection_def["variables"].bytes_list.value.extend(
                x.SerializeToString(deterministic=True)
                for x in self._variable_definitions
            )

    def write(self, folder: str | PathLike[str]) -> None:
        """Write the files `variables/variables.*` and release the values.

        Equal weights give equal bytes.
        """
        import tensorflow as tf

        if not self._saved:
            return
        variables = Path(folder) / "variables"
        variables.mkdir()
        tf.raw_ops.SaveV2(
            prefix=str(variables / "variables"),
            tensor_names=list(self._saved),
            shape_and_slices=[""] * len(self._saved),
            tensors=list(self._saved.values()),
        )
        self._saved.clear()


def checksum(traced: TracedModel) -> dict[str, Any]:
    """Return the SHA-256 and the size in bytes of a model's weights.

    They do not depend on the names of the layers, nor on how the weights are stored.

    Returns:
        The keys `sha256` and `bytes`.
    """
    digest, size = hashlib.sha256(), 0
    arrays = [
        *traced.weights.values(),
        *traced.variables.values(),
        *(x for table in traced.tables.values() for x in table),
    ]
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape} ".encode())
        if array.dtype == object:  # strings
            for text in array.flat:
                digest.update(len(text).to_bytes(8, "little") + text)
                size += len(text)
        else:
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
            size += array.nbytes
    return {"sha256": digest.hexdigest(), "bytes": size}


def _unique_names(traced: TracedModel) -> dict[str, str]:
    """Return a name in the new graph for each tensor that is stored."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for tensor in (*traced.weights, *traced.variables, *traced.tables):
        stem = "weights/" + re.sub(r"[^A-Za-z0-9_./-]", "_", traced.paths[tensor])
        name, count = stem, 0
        # TensorFlow's names do not differ by case alone.
        while name.lower() in taken:
            count += 1
            name = f"{stem}_{count}"
        taken.add(name.lower())
        names[tensor] = name
    return names


def _bytes(tensor: Any) -> int:
    return tensor.shape.num_elements() * tensor.dtype.size
