"""The networks of the papers, as plain functional Keras models.

They have no gates. Their parameters and MACs are checked against the papers.

All of them take `input_shape`, `classes`, `name`, and these options where they
apply:

- `data_format`: "channels_last" or "channels_first"; by default that of Keras'
  config. `input_shape` has the same order.
- `l2`: adds `l2 * sum(square(kernel))` to the loss for each kernel. The weight
  decay `wd` of the papers' code is `l2=wd / 2` (0 by default).
- `batch_norm`: a dict of arguments for all `BatchNormalization` layers, over
  the defaults `epsilon=1e-5, momentum=0.9`, which are those of PyTorch and of
  the papers. Network Slimming is `batch_norm={"gamma_initializer":
  keras.initializers.Constant(0.5), "gamma_regularizer":
  keras.regularizers.L1(1e-4)}`.
- `classifier_activation`: "softmax" by default; `None` for logits.

Convolutions are initialized with He's normal distribution by fan-out, hidden
Dense layers by fan-in, and classifiers with a normal distribution of standard
deviation 0.01. A strided convolution is padded by half of its kernel on each
side, in a separate layer, as in the papers' code.
"""

from keras_gates.zoo.densenet import densenet
from keras_gates.zoo.imagenet_resnet import resnet18
from keras_gates.zoo.imagenet_resnet import resnet50
from keras_gates.zoo.inception import inception
from keras_gates.zoo.lenet import lenet5
from keras_gates.zoo.mlp import mlp
from keras_gates.zoo.mobilenet import mobilenet
from keras_gates.zoo.preact_resnet import preact_resnet
from keras_gates.zoo.resnet import plain_resnet
from keras_gates.zoo.resnet import resnet
from keras_gates.zoo.vgg import vgg16
from keras_gates.zoo.vgg import vgg19

__all__ = [
    "densenet",
    "inception",
    "lenet5",
    "mlp",
    "mobilenet",
    "plain_resnet",
    "preact_resnet",
    "resnet",
    "resnet18",
    "resnet50",
    "vgg16",
    "vgg19",
]
