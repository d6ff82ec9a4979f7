"""What an endpoint's worker does with a task: its function comes as text, its arguments as the SDK wrote them."""

import traceback
from typing import Any


def call(
    *, function: dict[str, Any], payload: str | None = None, kwargs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Call the function; what it raises comes back as text, as from the real thing."""
    from globus_compute_sdk.serialize import ComputeSerializer

    arguments: list[Any] = []
    if payload is not None:
        serializer = ComputeSerializer()
        arguments, kwargs = map(serializer.deserialize, serializer.unpack_buffers(payload))
    names: dict[str, Any] = {}
    try:
        exec(function["code"], names)
        return {"value": names[function["name"]](*arguments, **(kwargs or {}))}
    except Exception:  # noqa: BLE001 whatever it raises is told
        return {"exception": traceback.format_exc()}
