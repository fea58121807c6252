"""Muon: steps of equal size in every direction of a kernel.

A gradient is dominated by few directions, and Adam, which scales single numbers, keeps
it so. Muon replaces the momentum of a kernel, as a matrix, by the nearest orthogonal
matrix (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from helpers.utils.hardware import Tensor


@keras.saving.register_keras_serializable("salt")
class Muon(keras.optimizers.Muon):
    """Keras' Muon, which leaves convolutions to Adam, for convolutions as well.

    Adam, with a tenth of the learning rate, trains what is no kernel.
    """

    def __init__(self, learning_rate: Any = 0.02, **kwargs: Any) -> None:
        own = {"adam_lr_ratio": 0.1, "adam_weight_decay": None, "rms_rate": None}
        super().__init__(learning_rate, **(own | {"weight_decay": 0.05} | kwargs))

    def _should_use_adamw(self, variable: Tensor) -> bool:
        return len(variable.shape) not in (2, 4)

    def zeropower_via_newtonschulz5(self, x: Tensor, steps: int) -> Tensor:
        """The nearest orthogonal matrix, about: (h, w, in, out) as (h w in, out)."""
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        matrix = super().zeropower_via_newtonschulz5(matrix, steps)
        return ops.reshape(matrix, x.shape)

    def lr_adjust(self, x: Tensor) -> Tensor:
        """Scale a step by the root of h w in / out, if that is more than 1."""
        return x * max(1.0, np.prod(x.shape[:-1]) / x.shape[-1]) ** 0.5
