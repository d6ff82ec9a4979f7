"""Who this installation is for Globus, and how patiently it asks."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hpc_bridge.errors import ConsentRequired

CREDENTIAL_NAME = "globus-client-secret"
"""Name of the systemd credential that holds the secret."""


@dataclass(frozen=True)
class GlobusSettings:
    """An application registered with Globus, and the folder that keeps what it must remember.

    ``secret_file``: of a client app (a service account); None for an app in whose name a person logs in once, whose
    tokens lie in ``folder``. ``poll_s``: between two looks at what runs elsewhere. ``deadline_s``: after which Transfer
    gives a copy up. ``timeout_s``: of one request, which is repeated ``retries`` times where that is safe.
    """

    client_id: str
    folder: Path
    secret_file: Path | None = None
    as_person: bool = False
    poll_s: float = 5.0
    deadline_s: float = 86_400.0
    timeout_s: float = 30.0
    retries: int = 2

    @property
    def secret(self) -> str:
        """The client's secret. Raises ConsentRequired, which never says what it is, when it cannot be had.

        From ``secret_file``, which only its owner may read, or from systemd's credential ``globus-client-secret``.
        """
        path = self.secret_file or _credential()
        if path is None:
            raise ConsentRequired(
                f"no client secret: set globus.secret_file, or systemd's credential {CREDENTIAL_NAME}"
            )
        try:
            mode = path.stat().st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConsentRequired(f"{path} can be read by others: chmod 0400 it")
            text = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConsentRequired(f"{path}: the client secret cannot be read: {error.strerror}") from error
        if not text:
            raise ConsentRequired(f"{path} is empty: it should hold the client secret")
        return text


def _credential() -> Path | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(folder) / CREDENTIAL_NAME if folder else None
