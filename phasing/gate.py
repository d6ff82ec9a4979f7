"""The gate: whether a newly trained model may go live."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from phasing.rounds import ScanLoss


class GateMode(StrEnum):
    """How candidates are let through; the values are what an operator reads and writes."""

    BETTER_ONLY = "Better only"
    ALWAYS = "Always"
    MANUAL = "Manual"


@dataclass(frozen=True)
class Verdict:
    """What the gate decided; `pending` means that an operator has to accept the candidate."""

    accepted: bool
    reason: str
    pending: bool = False


def judge(
    candidate_val_loss: float | None,
    incumbent_val_loss: float | None,
    mode: GateMode = GateMode.BETTER_ONLY,
    margin: float = 0.0,
    *,
    scan_losses: Sequence[ScanLoss] = (),
    scan_margin: float | None = None,
) -> Verdict:
    """Let a candidate through or refuse it, by losses on the same held-out frames.

    candidate_val_loss: mean absolute error in rad; None where none is known, for a network from elsewhere.
    incumbent_val_loss: the same of what is live; None where nothing is yet.
    margin: the relative improvement asked for, 0.05 = five per cent better than the incumbent.
    scan_losses: both, scan by scan. scan_margin: how much worse the candidate may be on any scan, 0.1 for ten per cent;
    None: the mean alone decides.
    A loss that is not known or not finite is refused in every mode: such a network has shown nothing.
    """
    if candidate_val_loss is None:
        return Verdict(False, "refused: the candidate's validation loss is not known")
    if not math.isfinite(candidate_val_loss):
        return Verdict(False, f"refused: the candidate's validation loss is {candidate_val_loss}")
    figures = _compared(candidate_val_loss, incumbent_val_loss) + _by_scan(scan_losses)
    if mode is GateMode.MANUAL:
        return Verdict(False, f"waits for Accept: {figures}", pending=True)
    if mode is GateMode.ALWAYS or incumbent_val_loss is None or not math.isfinite(incumbent_val_loss):
        return Verdict(True, f"accepted: {figures}")
    if candidate_val_loss > incumbent_val_loss * (1.0 - margin):
        wanted = f", {margin:.1%} better wanted" if margin else ""
        return Verdict(False, f"refused: {figures}{wanted}")
    if scan_margin is not None and (spoiled := _spoiled(scan_losses, scan_margin)):
        return Verdict(False, f"refused: {figures}; on {spoiled} more than {scan_margin:.1%} worse")
    return Verdict(True, f"accepted: {figures}")


def _spoiled(scan_losses: Sequence[ScanLoss], scan_margin: float) -> str:
    """The scans that the candidate makes worse than allowed."""
    return ", ".join(
        f"scan {one.scan_id}"
        for one in scan_losses
        if one.incumbent_val_loss is not None and one.val_loss > one.incumbent_val_loss * (1.0 + scan_margin)
    )


def _by_scan(scan_losses: Sequence[ScanLoss]) -> str:
    known = [one for one in scan_losses if one.incumbent_val_loss is not None]
    better = sum(one.val_loss < one.incumbent_val_loss for one in known if one.incumbent_val_loss is not None)
    return f", better on {better} of {len(known)} scans" if len(known) > 1 else ""


def _compared(candidate: float, incumbent: float | None) -> str:
    against = "no incumbent" if incumbent is None else f"incumbent {incumbent:.4f} rad"
    return f"validation loss {candidate:.4f} rad, {against}"
