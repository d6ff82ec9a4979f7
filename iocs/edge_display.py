"""The state of the stream on the edge's PVs."""

import dataclasses
from typing import Any

from iocs import alarms
from iocs.edge_messages import Counters, RecordState, Status
from iocs.server import IocServer
from pvdb import LARGEST_INTEGER, Pv, Severity
from pvdb import edge as pvs

NO_MODEL, IDLE, STREAMING, DISABLED, FAULT = range(5)
NOT_RECORDING, RECORDING, WAITING_FOR_DISK, RECORD_STOPPED, WAITING_FOR_SCAN = range(5)
COUNTERS: dict[str, tuple[Pv, Pv]] = {
    "received": (pvs.FRAMES_IN, pvs.SCAN_IN),
    "published": (pvs.FRAMES_OUT, pvs.SCAN_OUT),
    "missed": (pvs.FRAMES_MISSED, pvs.SCAN_MISSED),
    "dropped": (pvs.FRAMES_DROPPED, pvs.SCAN_DROPPED),
    "rejected": (pvs.FRAMES_REJECTED, pvs.SCAN_REJECTED),
    "no_model": (pvs.FRAMES_NO_MODEL, pvs.SCAN_NO_MODEL),
    "empty": (pvs.FRAMES_EMPTY, pvs.SCAN_EMPTY),
    "unplaced": (pvs.FRAMES_UNPLACED, pvs.SCAN_UNPLACED),
    "mismatched": (pvs.FRAMES_MISMATCHED, pvs.SCAN_MISMATCHED),
}
"""The PVs of every counter: since the last reset, and of the present scan."""


class EdgeDisplay:
    """Posts what has changed since it was shown last."""

    def __init__(self, ioc: IocServer) -> None:
        self._ioc = ioc
        self._shown: dict[Pv, tuple[str, Severity]] = {}

    def show(self, status: Status, *, has_model: bool) -> None:
        """Show a status of the stream process."""
        shown = {
            pvs.STATE: self._state(status, has_model),
            pvs.SCAN_ID: status.scan_id,
            pvs.SCAN_STATE: int(status.scan_state),
            pvs.RATE: status.rate_hz,
            pvs.LATENCY_FROM: int(status.latency_from_arrival),
            pvs.QUEUE_USED: status.queue_used * 100,
            pvs.FRAMES_WAITING: status.waiting,
            pvs.REJECTED_BECAUSE: status.rejected_because,
        }
        for pv, value in shown.items():
            self._update(pv, value)
        self._show_counts(status)
        self._show_latency(status)
        self._show_consistency(pvs.CONSISTENCY, status.consistency_rad)
        self._show_consistency(pvs.CONSISTENCY_RATIO, status.consistency_ratio)
        self._show_recording(status.recording)

    def show_fault(self) -> None:
        """Show that there is no stream process."""
        self._update(pvs.STATE, FAULT)

    def _state(self, status: Status, has_model: bool) -> int:
        if not self._ioc.value(pvs.ENABLE):
            return DISABLED
        if not has_model:
            return NO_MODEL
        return STREAMING if status.streaming else IDLE

    def _show_counts(self, status: Status) -> None:
        """Counters in total and of the scan; what was lost in this scan is an alarm on both until the next begins."""
        for field in dataclasses.fields(Counters):
            total_pv, scan_pv = COUNTERS[field.name]
            # A larger count would come out negative, and without its alarm.
            total, scan = (min(getattr(c, field.name), LARGEST_INTEGER) for c in (status.mark.total, status.mark.scan))
            self._update(scan_pv, scan)
            self._update(total_pv, total, severity=alarms.severity(scan_pv, scan), message="in this scan")

    def _show_latency(self, status: Status) -> None:
        """Latency; a negative one means that the clocks differ, and that none of it can be believed."""
        for pv, latency_s in ((pvs.LATENCY_MEDIAN, status.latency_median_s), (pvs.LATENCY_99, status.latency_99_s)):
            severity = Severity.MAJOR if latency_s < 0 else Severity.NO_ALARM
            self._update(pv, latency_s * 1e3, severity=severity, message="the detector's clock is ahead of ours")

    def _show_consistency(self, pv: Pv, spread: float | None) -> None:
        if spread is None:
            self._update(pv, float("nan"), severity=Severity.INVALID, message="nothing overlaps, or the map is flat")
        else:
            self._update(pv, spread)

    def _show_recording(self, state: RecordState) -> None:
        if not self._ioc.value(pvs.RECORD):
            shown = NOT_RECORDING
        elif state.stopped:
            shown = RECORD_STOPPED
        elif state.waiting_for_disk:
            shown = WAITING_FOR_DISK
        else:
            shown = RECORDING if state.recording else WAITING_FOR_SCAN
        self._update(pvs.RECORD_STATE, shown)
        self._update(pvs.RECORD_FILE, state.file)
        self._update(pvs.RECORD_FRAMES, state.frames)
        self._update(pvs.RECORD_DROPPED, state.dropped)
        self._update(pvs.RECORD_USED, state.used_bytes / 1e9)

    def _update(self, pv: Pv, value: Any, *, severity: Severity = Severity.NO_ALARM, message: str = "") -> None:
        shown = (repr(value), severity)
        if self._shown.get(pv) != shown:
            self._shown[pv] = shown
            self._ioc.post(pv, value, severity=severity, message=message if severity else "")
