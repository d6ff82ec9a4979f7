"""The gate: whether a newly trained model may go live."""

import math
from dataclasses import dataclass
from enum import StrEnum


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
) -> Verdict:
    """Let a candidate through or refuse it, by losses on the same held-out frames.

    candidate_val_loss: mean absolute error in rad; None where none is known, for a network from elsewhere.
    incumbent_val_loss: the same of what is live; None where nothing is yet.
    margin: the relative improvement asked for, 0.05 = five per cent better than the incumbent.
    A loss that is not known or not finite is refused in every mode: such a network has shown nothing.
    """
    if candidate_val_loss is None:
        return Verdict(False, "refused: the candidate's validation loss is not known")
    if not math.isfinite(candidate_val_loss):
        return Verdict(False, f"refused: the candidate's validation loss is {candidate_val_loss}")
    if mode is GateMode.MANUAL:
        return Verdict(False, f"waits for Accept: {_compared(candidate_val_loss, incumbent_val_loss)}", pending=True)
    if mode is GateMode.ALWAYS or incumbent_val_loss is None or not math.isfinite(incumbent_val_loss):
        return Verdict(True, f"accepted: {_compared(candidate_val_loss, incumbent_val_loss)}")
    if candidate_val_loss <= incumbent_val_loss * (1.0 - margin):
        return Verdict(True, f"accepted: {_compared(candidate_val_loss, incumbent_val_loss)}")
    wanted = f", {margin:.1%} better wanted" if margin else ""
    return Verdict(False, f"refused: {_compared(candidate_val_loss, incumbent_val_loss)}{wanted}")


def _compared(candidate: float, incumbent: float | None) -> str:
    against = "no incumbent" if incumbent is None else f"incumbent {incumbent:.4f} rad"
    return f"validation loss {candidate:.4f} rad, {against}"
