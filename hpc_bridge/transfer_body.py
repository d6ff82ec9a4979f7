"""Globus Transfer's body as every provider takes it."""

from hpc_bridge.errors import TaskFailed
from hpc_bridge.ports import Json

_NEEDED = {"source_endpoint", "destination_endpoint", "DATA"}
_OPTIONS = {"label", "verify_checksum", "sync_level", "encrypt_data", "preserve_timestamp", "deadline"}


def check_body(body: Json) -> None:
    """Raise TaskFailed naming what is missing or unknown."""
    if missing := _NEEDED - body.keys():
        raise TaskFailed(f"the transfer lacks {', '.join(sorted(missing))}")
    if unknown := body.keys() - _NEEDED - _OPTIONS:
        raise TaskFailed(f"the transfer has the unknown key {', '.join(sorted(unknown))}")
    if not isinstance(body["DATA"], list) or not body["DATA"]:
        raise TaskFailed("the transfer's DATA names no files")


def check_item(item: object) -> Json:
    """Return an item of DATA. Raises TaskFailed unless it names both paths."""
    if not isinstance(item, dict) or not {"source_path", "destination_path"} <= item.keys():
        raise TaskFailed("each item of DATA needs source_path and destination_path")
    return item
