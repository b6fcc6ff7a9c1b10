"""Switches for what is traced: each is on within its context, and read by the operations that are traced there."""

import contextlib
import contextvars
from collections.abc import Iterator


class TraceSwitch:
    """A switch that is off by default; `with switch():` turns it on, `with switch(False):` off, in this thread."""

    def __init__(self, name: str) -> None:
        self._variable = contextvars.ContextVar(name, default=False)

    @contextlib.contextmanager
    def __call__(self, is_on: bool = True) -> Iterator[None]:
        token = self._variable.set(is_on)
        try:
            yield
        finally:
            self._variable.reset(token)

    @property
    def is_on(self) -> bool:
        return self._variable.get()


# graphs for other runtimes: without TensorFlow's crops, and what they are slow at
exportable = TraceSwitch("exportable")
# TensorFlow functions that XLA compiles, with `jit_compile`: with the portable forms
compiling_xla = TraceSwitch("compiling_xla")
# large convolutions by `winograd`
allowing_winograd = TraceSwitch("allowing_winograd")
# detection in this process: in forms that are faster or need less memory, and have no gradients
detecting = TraceSwitch("detecting")
# graphs that are quantized to int8: the largest convolutions in bands of rows
quantizable = TraceSwitch("quantizable")
