"""Models as compiled functions of their inputs, which keep tensors on the device that computes them.

On TensorFlow a function is traced once, for inputs of any size. On JAX, and with XLA, it is compiled once for each
shape of its inputs. The weights are read at each call, so that newly loaded ones are used.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import keras

from ..ops.tracing import allowing_winograd, compiling_xla, detecting


def compiled(
    build: Callable[[], keras.Model], *, xla: bool = False, allow_winograd: bool = False
) -> Callable[..., Any]:
    """A compiled function of a model's inputs, one argument each, that returns tensors of the Keras backend.

    Args:
        build: returns the model, at the first call.
        xla: on TensorFlow, compile with XLA.
        allow_winograd: whether large convolutions are computed by `ops.winograd`, where that is faster.
    """

    @functools.cache
    def function() -> Callable[..., Any]:
        model = build()
        if keras.backend.backend() == "jax":
            return _with_jax(model)
        return _with_tensorflow(model, xla=xla, allow_winograd=allow_winograd)

    return lambda *inputs: function()(*inputs)


def _run(model: keras.Model, *inputs: Any) -> Any:
    return model(inputs[0] if len(model.inputs) == 1 else list(inputs), training=False)


def _with_tensorflow(model: keras.Model, *, xla: bool, allow_winograd: bool) -> Callable[..., Any]:
    import tensorflow as tf

    def run(model: keras.Model, *inputs: Any) -> Any:
        with compiling_xla(xla), allowing_winograd(allow_winograd), detecting():
            return _run(model, *inputs)

    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs]
    # a partial: TensorFlow counts traces by the code of a function, and would warn of one a model
    options = {"input_signature": signature, "jit_compile": xla or None, "autograph": False}
    function = tf.function(functools.partial(run, model), **options)
    return cast(Callable[..., Any], function)


def _with_jax(model: keras.Model) -> Callable[..., Any]:
    import jax

    variables = model.variables

    @jax.jit
    def run(values: list[Any], *inputs: Any) -> Any:
        # as arguments: weights that the compiled function finds elsewhere become constants of it
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return _run(model, *inputs)

    return lambda *inputs: run([variable.value for variable in variables], *inputs)
