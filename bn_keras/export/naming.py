"""Names of a model's inputs and outputs that every TensorFlow Serving client can use.

Knows Keras' structures and names; no graph.
"""

import keyword
import re

from keras import tree


def input_names(model):
    """A name for each input of a Functional model, in flat order.

    Args:
        model: a Functional `keras.Model`.

    Returns:
        A list of strings; see `legal_names`.
    """
    given = [
        "input_layer" if re.fullmatch(r"keras_tensor(_\d+)?", x.name) else x.name
        for x in model.inputs
    ]
    return legal_names(_by_keys(model.input, given))


def output_names(model, operations):
    """A name for each output of a Functional model, in flat order.

    An automatic name (`dense_7`) loses its number, which counts what the process has
    built before.

    Args:
        model: a Functional `keras.Model`.
        operations: those of the model as it was written, layers among them.

    Returns:
        A list of strings; see `legal_names`.
    """
    classes = {one.name: type(one).__name__.lower() for one in operations}
    given = []
    for name in model.output_names:
        bare = re.sub(r"_\d+$", "", name)
        automatic = bare.replace("_", "") == classes.get(name)
        given.append(bare if automatic else name)
    return legal_names(_by_keys(model.output, given))


def legal_names(names):
    """Distinct names of letters, digits and `_` that begin with a letter.

    Every other character becomes `_`; `x` goes in front of what does not begin with a
    letter, `_` behind a word of Python's. Names that were legal stay; of equal ones
    the first stays and the others get `_1`, `_2`, ...

    Args:
        names: a list of strings.

    Returns:
        A list of as many strings.

    Example:
    ```python
    from bn_keras.export.naming import legal_names

    assert legal_names(["image-1", "image_1", "2nd", "image_1"]) == [
        "image_1_1", "image_1", "x2nd", "image_1_2"
    ]
    ```
    """
    wanted = [_legal(name) for name in names]
    first_to_claim = {
        name: position
        for position, name in reversed(list(enumerate(wanted)))
        if names[position] == name
    }
    for position, name in enumerate(wanted):
        first_to_claim.setdefault(name, position)
    taken, result = set(first_to_claim), []
    for position, name in enumerate(wanted):
        count, unique = 0, name
        while first_to_claim.get(unique) != position and unique in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique)
        result.append(unique)
    return result


def _legal(name):
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if not re.match("[A-Za-z]", name):
        name = f"x{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def _by_keys(structure, names):
    # Where a dictionary is anywhere on the way to a tensor, the way is its name.
    paths = [path for path, _ in tree.flatten_with_path(structure)]
    return [
        "_".join(map(str, path)) if any(isinstance(key, str) for key in path) else name
        for path, name in zip(paths, names, strict=True)
    ]
