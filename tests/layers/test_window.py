"""Where a kernel reads, with padding counted by hand."""

import pytest

from keras_gates.layers.window import Window


def window(kernel, stride=1, dilation=1, padding="same", size=None):
    return Window((kernel,), (stride,), (dilation,), padding, (size,))


@pytest.mark.parametrize(
    "given, pad",
    [
        ({"kernel": 3}, (1, 1)),
        # An even kernel has one more zero after the input.
        ({"kernel": 4}, (1, 2)),
        ({"kernel": 3, "dilation": 2}, (2, 2)),
        ({"kernel": 3, "padding": "valid"}, (0, 0)),
        ({"kernel": 1, "stride": 2}, (0, 0)),
        # Outputs at the pixels 0, 2, 4: the last reads one beyond an even
        # input, and an odd one is read round its middle.
        ({"kernel": 3, "stride": 2, "size": 6}, (0, 1)),
        ({"kernel": 3, "stride": 2, "size": 5}, (1, 1)),
        ({"kernel": 3, "stride": 2}, None),
    ],
)
def test_pads(given, pad):
    assert window(**given).pads == (pad,)


@pytest.mark.parametrize(
    "given, tap",
    [
        ({"kernel": 3}, 1),
        ({"kernel": 4}, 1),
        ({"kernel": 3, "dilation": 2}, 1),
        ({"kernel": 3, "stride": 2, "size": 6}, 0),
        ({"kernel": 3, "stride": 2, "size": 5}, 1),
        ({"kernel": 3, "stride": 2}, None),
    ],
)
def test_the_tap_that_reads_the_pixel_of_the_output(given, tap):
    assert window(**given).taps == (tap,)


def test_an_even_number_of_dilated_taps_passes_the_pixel_by():
    assert window(3, dilation=2).has_taps
    assert not window(2, dilation=2).has_taps


def test_only_same_padding_and_no_strides_keep_the_size():
    assert window(3).keeps_size
    assert window(1, padding="valid").keeps_size
    assert not window(3, padding="valid").keeps_size
    assert not window(3, stride=2).keeps_size


def test_a_padding_that_is_unknown_is_refused_where_it_must_be_known():
    assert window(3, stride=2, size=6).known_pads == ((0, 1),)
    with pytest.raises(ValueError, match="unknown"):
        _ = window(3, stride=2).known_pads
