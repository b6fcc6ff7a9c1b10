"""Losses for TensorBoard, written as they come.

Not tensorboard.summary.Writer: its thread writes later, when a full disk no longer stops the run.
"""

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from ..io.files import make_folder, write_errors

_VERSION = "brain.Event:2"  # of the format of event files


class Board(contextlib.AbstractContextManager["Board"]):
    """Writes an event file into a folder, from the first row on.

    Args:
        folder: made if it is missing.
        writes: False writes nothing.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self._writes = writes
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._path = folder / f"{name}.{time.monotonic_ns()}"
        self._file: IO[bytes] | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Write the numbers of an epoch.

        Raises:
            ValueError: the file cannot be written.
        """
        if not self._writes:
            return
        make_folder(self._path.parent)
        with write_errors(self._path):
            if self._file is None:
                self._file = open(self._path, "ab")
                self._write(Event(wall_time=time.time(), file_version=_VERSION))
            for name in row.keys() - {"epoch"}:
                self._write(Event(wall_time=time.time(), step=row["epoch"], summary=scalar_pb(name, row[name])))
            self._file.flush()

    def _write(self, event: Any) -> None:
        RecordWriter(self._file).write(event.SerializeToString())

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with write_errors(self._path):
                self._file.close()
