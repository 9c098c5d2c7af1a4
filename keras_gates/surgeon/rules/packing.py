"""Rules for layers that hold their weights in another form once pruned."""

import dataclasses

from keras_gates.surgeon.rules.convolution import Conv


@dataclasses.dataclass(frozen=True)
class PackingConv(Conv):
    """A convolution whose kernel is packed when its factors are closed.

    In all methods `index` holds the kept positions by role, and `shut` the
    mask of the closed factors, or None.
    """

    def pack(self, call, arrays, index, shut):
        """Pack arrays that have their final widths, in place.

        Returns:
            The changes to the config that go with it.
        """
        raise NotImplementedError

    def packed_shapes(self, call, index, shut):
        """`[(weight name, shape)]` of the new layer."""
        raise NotImplementedError

    def told(self, call, index, shut):
        """What the plan says of it, one line each."""
        raise NotImplementedError
