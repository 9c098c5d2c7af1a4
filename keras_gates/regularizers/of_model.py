"""A penalty on a whole model, attached to one of its variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


class OfModel(keras.regularizers.Regularizer):
    """A penalty on a model, of which Keras passes one variable."""

    def put_on(
        self, variables: Sequence[keras.Variable], model: keras.Model, what: str
    ) -> None:
        """Attach it to the first free variable.

        Args:
            variables: those that it may be attached to.
            model: the model, for the message.
            what: what the variables are, for the message.

        Raises:
            ValueError: all of them have a regularizer.
        """
        free = [v for v in variables if v.regularizer is None]
        if not free:
            raise ValueError(
                f"All {what} of '{model.name}' have a regularizer already. "
                f"Remove one of these, so that {type(self).__name__} can take "
                "its place."
            )
        free[0].regularizer = self

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy belongs to another model.
        return type(self).from_config, (self.get_config(),)
