"""Jobs as functions of Globus Compute: registered once by their content, so that an endpoint can allow them by id.

What is registered is the text of a function of three lines that calls a job by its name. Arguments and results are
JSON; no pickle of ours travels.
"""

from collections.abc import Mapping
from typing import Any

from hpc_bridge.compute_body import check_job
from hpc_bridge.errors import TaskFailed
from hpc_bridge.globus.apps import client_options
from hpc_bridge.globus.errors import named_errors
from hpc_bridge.globus.registrations import Registrations
from hpc_bridge.globus.settings import GlobusSettings
from hpc_bridge.ports import Json
from phasing.errors import MissingExtra

_JSON_DATA = "globus_compute_sdk.serialize.JSONData"
_SOURCE = '''def {name}(_request="", _claims="", **kwargs):
    """phaseline's job {name}"""
    from hpc_bridge import claims, workers
    if _request:
        return claims.run_once("{target}", _request, _claims, kwargs)
    return workers.output_of("{target}", kwargs)
'''


def compute_client(app: Any, settings: GlobusSettings) -> Any:
    """Return Globus Compute's client, which sends arguments as JSON. Raises MissingExtra.

    GLOBUS_SDK_SERVICE_URL_COMPUTE, as for the other services, says where it is when it is not in its usual place.
    """
    try:
        from globus_compute_sdk import Client
        from globus_compute_sdk.serialize import JSONData
        from globus_sdk import ComputeClientV2, ComputeClientV3
    except ImportError as error:
        raise MissingExtra("globus-compute-sdk", "globus") from error

    class Located(Client):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(app=app, do_version_check=False, data_serialization_strategy=JSONData())
            options = client_options(settings)
            self._compute_web_client.v2 = ComputeClientV2(app=app, **options)
            self._compute_web_client.v3 = ComputeClientV3(app=app, **options)

    return Located()


def source(name: str, target: str) -> str:
    """Return the text that is registered for a job."""
    if not name.isidentifier():
        raise TaskFailed(f"a job cannot be called {name!r} at Globus Compute")
    return _SOURCE.format(name=name, target=target)


class Functions:
    """The ids of registered jobs, kept in a file by name and content."""

    def __init__(self, client: Any, jobs: Mapping[str, str], settings: GlobusSettings) -> None:
        """``jobs`` maps names to ``package.module:function``."""
        self._client, self._jobs, self._settings = client, dict(jobs), settings
        self._known = Registrations(settings.folder / "globus-functions.json", "function_id")

    def ids(self) -> dict[str, str]:
        """Return the ids of all jobs by name, registering those that are new or another than before."""
        return {name: self.id_of(name) for name in self._jobs}

    def registered(self) -> dict[str, str]:
        """Return the ids of all jobs without asking the service. Raises TaskFailed when one was not registered."""
        for name, target in self._jobs.items():
            if not self._known.holds(name, source(name, target)):
                raise TaskFailed(f"the job {name} is not registered as it is now: run `phaseline flow deploy`")
        return {name: self._known.id_of(name) for name in self._jobs}

    def id_of(self, name: str) -> str:
        """Return the id of one job. Raises TaskFailed for one that is not on the list."""
        check_job(name, self._jobs)
        text = source(name, self._jobs[name])
        if not self._known.holds(name, text):
            with named_errors(self._settings, "Globus Compute"):
                function_id = self._client.register_source_code(text, name, description=f"phaseline's job {name}")
            self._known.keep(name, text, str(function_id))
        return self._known.id_of(name)

    def submit(self, name: str, endpoint_id: str, kwargs: Json) -> str:
        """Call a job at an endpoint and return the task's id; the second of two calls is another task."""
        function_id = self.id_of(name)
        batch = self._client.create_batch(result_serializers=[_JSON_DATA])
        batch.add(function_id, (), kwargs)
        with named_errors(self._settings, "Globus Compute"):
            found = self._client.batch_run(endpoint_id, batch)
        return str(found["tasks"][function_id][0])
