"""What was registered at a service: its id there by our name, and the digest of what was registered."""

import hashlib
import json
from pathlib import Path

from hpc_bridge.errors import TaskFailed
from phasing.files import replaced_file


class Registrations:
    """A file of ids; what has another content than was registered has no id that holds."""

    def __init__(self, path: Path, id_key: str) -> None:
        """``id_key`` is what the file calls the service's id."""
        self._path, self._id_key = path, id_key

    def id_of(self, name: str) -> str:
        """Return the id that a name has at the service, whatever its content was; empty when it has none."""
        entry = self._read().get(name)
        return "" if entry is None else entry[self._id_key]

    def holds(self, name: str, content: str) -> bool:
        """Whether just this content was registered under the name."""
        entry = self._read().get(name)
        return entry is not None and entry["digest"] == _digest(content)

    def keep(self, name: str, content: str, service_id: str) -> None:
        """Note that a content is registered now."""
        entry = {self._id_key: service_id, "digest": _digest(content)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        known = self._read()
        with replaced_file(self._path) as part:
            part.write_text(json.dumps({**known, name: entry}, indent=1))

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            return dict(json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            text = f"{self._path} is damaged; delete it and run `phaseline flow deploy`: {error}"
            raise TaskFailed(text) from error


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
