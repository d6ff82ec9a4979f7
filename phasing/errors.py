"""Named errors of the science; the text of each is the one clear line that the operator reads."""


class PhaselineError(Exception):
    """Base of every error that phaseline raises on purpose."""


class ScanFileError(PhaselineError):
    """A scan file that cannot be used; the text names the file and what is wrong with it."""


class DiskRefused(ScanFileError):
    """The disk does not take a scan file's bytes; they are kept, and the same call may be made again."""


class GeometryError(PhaselineError):
    """A geometry block that cannot be; the text names the field."""


class FrameRejected(PhaselineError):
    """A frame that cannot be prepared: wrong shape, dtype or content."""


class RetrievalError(PhaselineError):
    """Phase retrieval that failed or did not converge to finite numbers."""


class PairsError(PhaselineError):
    """Training pairs that are missing, truncated or contradict one another."""


class TrainingError(PhaselineError):
    """A training round that cannot start or did not yield a usable network."""


class ModelError(PhaselineError):
    """A model artifact, card or registry entry that is corrupted or does not fit."""


class MissingExtra(PhaselineError):
    """A library of an optional extra is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed: pip install 'phaseline[{extra}]'")


def one_line(error: Exception | str) -> str:
    """A library's message without its line breaks, at most 300 characters."""
    return " ".join(str(error).split())[:300]
