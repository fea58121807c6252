"""Muon for convolutions: step sizes, which variables, and that it can be saved."""

import keras
import numpy as np
import pytest

from helpers.training.muon import Muon


def step(kernel, gradient, **options):
    """The change of one variable in a first step with learning rate 1."""
    variable = keras.Variable(kernel)
    optimizer = Muon(1.0, weight_decay=0.0, momentum=0.0, nesterov=False, **options)
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    return keras.ops.convert_to_numpy(variable) - kernel


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (3, 3, 8, 2), (1, 1, 16, 16), (5, 7)])
def test_step_is_equally_large_in_all_directions(shape):
    gradient = np.random.default_rng(0).standard_normal(shape).astype("float32")
    gradient *= np.geomspace(0.2, 1, shape[-1]).astype("float32")
    change = step(np.zeros(shape, "float32"), gradient).reshape(-1, shape[-1])
    sizes = np.linalg.svd(change, compute_uv=False)
    scale = max(1, change.shape[0] / change.shape[1]) ** 0.5
    assert 0.5 * scale < sizes.min() and sizes.max() < 1.3 * scale
    assert (change * gradient.reshape(change.shape)).sum() < 0  # downhill


def test_size_of_the_gradient_does_not_matter():
    gradient = np.random.default_rng(0).standard_normal((3, 3, 2, 4)).astype("float32")
    zeros = np.zeros_like(gradient)
    np.testing.assert_allclose(
        step(zeros, gradient), step(zeros, 100 * gradient), atol=1e-3
    )


def test_biases_are_left_to_adam_at_a_tenth_of_the_rate():
    change = step(np.zeros(3, "float32"), np.array([1, -5, 0.1], "float32"))
    np.testing.assert_allclose(change, [-0.1, 0.1, -0.1], rtol=1e-3)


def test_kernels_decay_and_biases_do_not():
    kernel, bias = keras.Variable(np.ones((2, 2), "float32")), keras.Variable([1.0])
    optimizer = Muon(0.5, weight_decay=0.1)
    optimizer.build([kernel, bias])
    zeros = [keras.ops.zeros(v.shape) for v in (kernel, bias)]
    optimizer.apply(zeros, [kernel, bias])
    np.testing.assert_allclose(kernel, 0.95, atol=1e-3)
    np.testing.assert_allclose(bias, 1.0, atol=1e-6)


def test_is_saved_with_a_model(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(Muon(0.03), "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert isinstance(loaded, Muon)
    assert loaded.get_config() == model.optimizer.get_config()
