"""Jobs through the real Parsl at one endpoint."""

from waiter import Waiter

from hpc_bridge.parsl_compute import ParslCompute

PATIENCE_S = 600.0


class Cluster(Waiter):
    """A provider over Parsl with the endpoint `one`, and its jobs by name."""

    def __init__(self, folder, jobs, settings, blocks, **limits_s) -> None:
        self.folder = folder
        path = folder / "compute.sqlite"
        super().__init__(ParslCompute(jobs, {"one": blocks}, settings, path, limits_s=limits_s), PATIENCE_S)
        self._number = 0

    def run(self, job, **kwargs):
        self._number += 1
        body = {"endpoint_id": "one", "tasks": [{"function_id": job, "kwargs": kwargs}]}
        return self.provider.run(f"r{self._number}", body)

    def output(self, action):
        return self.succeeded(action).details["results"][0]["output"]
