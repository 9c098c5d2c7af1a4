"""The operations of `keras.ops` without a rule, with reasons.

A test compares this table, together with those that have a rule, with what
`keras.ops` shows: whatever a new Keras adds needs a row in one of them.
"""

_PRODUCT = "it computes products over the channels"
_WEIGHTS = "its weights are arguments of the call; use the Keras layer"
_MATRIX = "it reads whole matrices"
_SIGNALS = "it mixes whole signals: every output depends on all channels"
_COMPLEX = "complex numbers are not supported"
_ZERO_SIGN = (
    "it depends on the sign of zero, which a closed gate does not determine"
)
_NEW = "it makes an array of numbers, and reads no channels"
_FLOW = "it calls functions whose code is not recorded"
_ASKS = "it queries a tensor, and does not compute with it"
_SHAPE = "it places channels by their positions"
_DRAWS = "it samples at positions that are known only at run time"
_COLORS = "it mixes the three color channels"
_POSITIONS = "the positions that it works at are known only at run time"
_COUNTS = "its output counts values, or looks them up in a table"
_LOSS = "it is a loss or a metric over all channels"

_GROUPS = {
    _PRODUCT: "cdist corrcoef correlate cross inner kron outer vdot vander",
    _WEIGHTS: "batch_normalization conv_transpose depthwise_conv "
    "layer_normalization rms_normalization separable_conv",
    _MATRIX: "cholesky cholesky_inverse det eig eigh inv logdet lstsq "
    "lu_factor matrix_rank pinv qr slogdet solve solve_triangular svd",
    _SIGNALS: "fft fft2 ifft2 irfft istft rfft stft",
    _COMPLEX: "imag polar view view_as_complex view_as_real",
    _ZERO_SIGN: "angle arctan2 nextafter signbit",
    _NEW: "arange bartlett blackman empty empty_like eye full geomspace "
    "hamming hanning identity kaiser linspace logspace ones tri zeros",
    _FLOW: "associative_scan cond custom_gradient fori_loop jvp map scan "
    "switch vectorize vectorized_map while_loop",
    _ASKS: "convert_to_numpy dtype is_tensor ndim shape size",
    _SHAPE: "diag diagflat fold meshgrid rearrange unfold",
    _DRAWS: "elastic_transform map_coordinates perspective_transform "
    "scale_and_translate sobel_edges",
    _COLORS: "hsv_to_rgb rgb_to_grayscale rgb_to_hsv",
    _POSITIONS: "nonzero scatter scatter_update segment_max segment_min "
    "segment_prod segment_sum select slice slice_update take_along_axis "
    "unique unravel_index",
    _COUNTS: "bincount digitize histogram in_top_k isin multi_hot one_hot "
    "searchsorted",
    _LOSS: "allclose binary_crossentropy categorical_crossentropy ctc_decode "
    "ctc_loss psnr sparse_categorical_crossentropy ssim",
    "Keras records a wrong shape for it; use the layer": "adaptive_max_pool "
    "adaptive_average_pool",
    "on TensorFlow, Keras fails along any axis but the last": "argpartition",
    "on torch, Keras transposes its output": "count_nonzero",
    "the frames of a signal are not supported": "extract_sequences",
    "it splits an axis into halves that belong together; use sigmoid and "
    "split": "glu",
    "volumes are not supported; use extract_patches": "extract_patches_3d",
}

# By the name of the function.
NOT_FOLLOWED = {
    name: reason for reason, names in _GROUPS.items() for name in names.split()
}
