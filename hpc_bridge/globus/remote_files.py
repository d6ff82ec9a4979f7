"""Files of the compute side, read from afar: over the collection's HTTPS server, or by a small job."""

import base64
import time
from typing import Any
from urllib.parse import quote

from hpc_bridge.errors import BackendUnavailable
from hpc_bridge.globus.apps import client_options, sdk
from hpc_bridge.globus.errors import named_errors
from hpc_bridge.globus.functions import Functions
from hpc_bridge.globus.results import task_output
from hpc_bridge.globus.settings import GlobusSettings
from hpc_bridge.ports import Json
from hpc_bridge.site import Folder

TAIL = "tail"
LIMIT_BYTES = 4_000_000


class HttpsFiles:
    """Reads over a collection's HTTPS server, which a data access consent of its own opens."""

    def __init__(self, app: Any, settings: GlobusSettings, folder: Folder, base_url: str) -> None:
        """``folder`` is the compute side's, ``base_url`` what the collection says of itself (https_server)."""
        self._settings, self._folder = settings, folder
        self._client = _https_client(app, settings, folder.collection, base_url)

    def read(self, path: str, offset: int = 0) -> bytes:
        """Return what stands in the file from ``offset`` on."""
        relative = self._folder.relative(path)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        globus_sdk = sdk()
        with named_errors(self._settings, "the collection's HTTPS server"):
            try:
                answer = self._client.get(quote(self._folder.in_collection(relative)), headers=headers)
            except globus_sdk.GlobusAPIError as error:
                if error.http_status == 404:
                    raise FileNotFoundError(path) from error
                if error.http_status == 416:  # nothing stands there yet
                    return b""
                raise
        content = answer.binary_content
        whole = offset and answer.http_status == 200  # a server that knows no ranges
        return bytes(content[offset:] if whole else content)


class ComputeFiles:
    """Reads by a job at a Compute endpoint that sees the files; slower, and without further consents."""

    def __init__(self, client: Any, functions: Functions, settings: GlobusSettings, endpoint_id: str) -> None:
        """``functions`` must know the job ``tail``."""
        self._client, self._functions, self._settings, self._endpoint_id = client, functions, settings, endpoint_id

    def read(self, path: str, offset: int = 0) -> bytes:
        """Return what stands in the file from ``offset`` on, at most LIMIT_BYTES."""
        asked = {"path": path, "offset": offset, "limit_bytes": LIMIT_BYTES}
        task_id = self._functions.submit(TAIL, self._endpoint_id, asked)
        with named_errors(self._settings, "Globus Compute"):
            answer = self._answer(task_id)
        if answer.get("missing"):
            raise FileNotFoundError(path)
        return base64.b64decode(answer["base64"])

    def _answer(self, task_id: str) -> Json:
        deadline_s = time.monotonic() + self._settings.timeout_s
        while time.monotonic() < deadline_s:
            if (output := task_output(self._client, task_id)) is not None:
                return output
            time.sleep(min(self._settings.poll_s, 1.0))
        raise BackendUnavailable(f"no answer from endpoint {self._endpoint_id} in {self._settings.timeout_s:g} s")


def _https_client(app: Any, settings: GlobusSettings, collection: str, base_url: str) -> Any:
    """A client of one collection's HTTPS server, for which tokens are the collection's own."""
    globus_sdk = sdk()
    made = type("CollectionClient", (globus_sdk.BaseClient,), {"service_name": "https", "resource_server": collection})
    return made(
        base_url=base_url,
        app=app,
        app_scopes=[globus_sdk.Scope(f"https://auth.globus.org/scopes/{collection}/https")],
        **client_options(settings),
    )
