"""A data set: its splits, and the names of its classes."""

from dataclasses import dataclass

from bn_keras.data.splits import Split, describe_shape
from bn_keras.tables import html_table

# More class names than these are not shown in full.
_CLASSES_SHOWN = 12


@dataclass(frozen=True, repr=False)
class Data:
    """A data set.

    Args:
        name: The name of the data set.
        train: The training examples.
        test: The test examples.
        class_names: The name of each class, in the order of the labels.
        skipped: The bad files that were left out.
        validation: The examples on which a run is validated, or `None` where these are
            the test examples.
        notes: What users should know of how the data set was read.

    Example:
    ```python
    from bn_keras import data

    digits = data.digits()
    assert len(digits.train) == 1437
    assert digits.class_names[3] == "3"
    ```
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    validation: Split | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels of every image; `None` for a side that varies."""
        return self.train.shape

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped):,} skipped" if self.skipped else ""
        validation = f"validation={self.validation!r}, " if self.validation else ""
        return (
            f"Data({self.name!r}, train={self.train!r}, {validation}test={self.test!r},"
            f" {len(self.class_names):,} classes{skipped})"
        )

    def _repr_html_(self) -> str:
        names = ", ".join(self.class_names[:_CLASSES_SHOWN])
        if len(self.class_names) > _CLASSES_SHOWN:
            names += ", ..."
        rows = [
            ("train", f"{len(self.train):,} examples"),
            *(
                [("validation", f"{len(self.validation):,} examples")]
                if self.validation
                else []
            ),
            ("test", f"{len(self.test):,} examples"),
            ("image", describe_shape(self.shape)),
            ("classes", f"{len(self.class_names):,}: {names}"),
        ]
        if self.skipped:
            rows.append(("bad files skipped", f"{len(self.skipped):,}"))
        rows += [("note", note) for note in self.notes]
        return html_table(rows, caption=self.name)
