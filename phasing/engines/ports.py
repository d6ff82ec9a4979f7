"""Which networks can be served: one input and one output of (B or any, 1, H, W) float32."""

from collections.abc import Sequence
from dataclasses import dataclass

from phasing.card import ModelCard
from phasing.errors import ModelError


@dataclass(frozen=True)
class Port:
    """One input or output as a library declares it; shape None where even the rank is open, None in it for any size."""

    name: str
    is_float32: bool
    shape: tuple[int | None, ...] | None


def fixed_batch(inputs: Sequence[Port], outputs: Sequence[Port], card: ModelCard) -> int | None:
    """The only number of frames that a network takes at once, None for any.

    Raises ModelError with the reason when the network cannot be served or does not fit its card.
    """
    for kind, ports in (("input", inputs), ("output", outputs)):
        if len(ports) != 1:
            raise _refused(card, f"it has {len(ports)} {kind}s, not one")
        _check(kind, ports[0], card)
    sizes = {port.shape[0] for port in (inputs[0], outputs[0]) if port.shape is not None and port.shape[0] is not None}
    if len(sizes) > 1:
        raise _refused(card, f"it takes {min(sizes)} or {max(sizes)} frames at once: input and output differ")
    taken = inputs[0].shape[0] if inputs[0].shape is not None else None
    # An output of a fixed number with an input of any number: some reshaping inside has it fixed.
    return taken if taken is not None else next(iter(sizes), None)


def _check(kind: str, port: Port, card: ModelCard) -> None:
    if not port.is_float32:
        raise _refused(card, f"its {kind} {port.name!r} is not float32")
    if port.shape is None:
        return
    if len(port.shape) != 4:
        raise _refused(card, f"its {kind} {port.name!r} has {len(port.shape)} axes, not (frames, 1, rows, columns)")
    for size, wanted in zip(port.shape[1:], card.input_shape, strict=True):
        if size not in (None, wanted):
            has, fits = _times(port.shape[1:]), _times(card.input_shape)
            raise _refused(card, f"its {kind} {port.name!r} is {has}, but its card says {fits}")


def _times(shape: Sequence[int | None]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape)


def _refused(card: ModelCard, reason: str) -> ModelError:
    return ModelError(f"model version {card.version} cannot be served: {reason}")
