"""The authors' consumer under pvapy's streaming framework, after the description in REFERENCE.md, for comparison only.

A queue collects frames, a thread takes eight at a time, predicts them and publishes each. ONNX Runtime in float32
stands in for TensorRT. Kinder than theirs: the queue is one between threads, where theirs pickles every frame through
a pipe.
"""

import queue
import threading
from typing import Any

import numpy as np
import onnxruntime
from pvapy.hpc.adImageProcessor import AdImageProcessor

BATCH = 8
_POLL_S = 0.5


class AuthorsProcessor(AdImageProcessor):  # type: ignore[misc]
    """Arguments of the processor (JSON): onnx, counts_scale, threads, spin."""

    def __init__(self, configDict: dict[str, Any]) -> None:  # noqa: N803  (pvapy's name)
        super().__init__(configDict)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(configDict["threads"])
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(configDict["spin"])))
        self._session = onnxruntime.InferenceSession(configDict["onnx"], options, ["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._scale = np.float32(configDict["counts_scale"])
        self._frames: queue.Queue[tuple[int, Any]] = queue.Queue()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Begin to predict."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True

    def process(self, pvObject: Any) -> Any:  # noqa: N803  (pvapy's name)
        """Queue a frame; a copy, for pvapy uses its memory again."""
        frame_id, image, *_ = self.reshapeNtNdArray(pvObject)
        self._frames.put((frame_id, image.astype(np.float32)))
        return pvObject

    def _work(self) -> None:
        batch: list[tuple[int, Any]] = []
        while not self._stopping:
            try:
                batch.append(self._frames.get(timeout=_POLL_S))
            except queue.Empty:
                continue
            if len(batch) == BATCH:
                self._predict(batch)
                batch = []

    def _predict(self, batch: list[tuple[int, Any]]) -> None:
        counts = np.stack([frame for _, frame in batch])[:, None] * self._scale
        phases_rad = self._session.run(None, {self._input: counts})[0][:, 0]
        for (frame_id, _), phase_rad in zip(batch, phases_rad, strict=True):
            self.updateOutputChannel(self.generateNtNdArray2D(frame_id, phase_rad))
