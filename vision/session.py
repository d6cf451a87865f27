"""The only wiring of ONNX Runtime: providers, threads, and loading once."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from vision.errors import ErrorCode, PermanentError


class OnnxSession:
    """A lazily loaded ONNX graph that several threads may run.

    `threads` bounds the cores one run may use; 0 leaves the choice to ONNX Runtime. Loading waits
    until the first run, so that a server can fork first: ONNX Runtime's threads do not survive a
    fork.
    """

    def __init__(self, model_path: Path, threads: int = 0) -> None:
        self._model_path = model_path
        self._threads = threads
        self._lock = threading.Lock()
        self._session: ort.InferenceSession | None = None

    def load(self) -> ort.InferenceSession:
        """The loaded session. Raises `PermanentError` (`bundle_invalid`) for an unusable file."""
        with self._lock:
            if self._session is None:
                self._session = self._open()
            return self._session

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every output by name."""
        session = self.load()
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, dict(feeds))
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    def close(self) -> None:
        with self._lock:
            self._session = None

    def _open(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Idle spinning steals the cores from the stages and requests that run beside this one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return ort.InferenceSession(
                str(self._model_path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime raises a family of unrelated exception types.
            raise PermanentError(
                ErrorCode.BUNDLE_INVALID, f"{self._model_path} cannot be loaded: {error}"
            ) from error
