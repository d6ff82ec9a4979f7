"""One action URL with several places behind it."""

import pytest
from scripted import Scripted

from hpc_bridge.endpoints import Endpoints
from hpc_bridge.errors import TaskFailed
from hpc_bridge.ports import ActionState


class Stopped(Scripted):
    stops = 0

    def stop(self):
        self.stops += 1


@pytest.fixture
def places():
    return Stopped(), Stopped()


def test_each_action_goes_to_its_endpoint_and_is_found_there_again(places):
    here, there = places
    endpoints = Endpoints({"here": here, "there": there})
    action = endpoints.run("r1", {"endpoint_id": "there"})
    assert (here.begun, there.begun) == ([], ["r1"])
    again = Endpoints({"here": here, "there": there})  # as after a restart
    there.succeed("r1", results=[])
    assert again.status(action).status is ActionState.SUCCEEDED
    again.release(action)
    again.cancel(action)
    assert there.cancelled.get_nowait() == "r1"


def test_an_endpoint_that_does_not_exist_is_named(places):
    here, _ = places
    with pytest.raises(TaskFailed, match=r"there is no endpoint 'far' \(known: here\)"):
        Endpoints({"here": here}).run("r1", {"endpoint_id": "far"})
    action = Endpoints({"far": here}).run("r1", {"endpoint_id": "far"})
    with pytest.raises(TaskFailed, match="not configured any more"):
        Endpoints({"here": here}).status(action)


def test_a_provider_of_several_endpoints_is_stopped_once_and_tells_of_its_ends(places):
    here, there = places
    endpoints = Endpoints({"here": here, "there": there, "near": here})
    heard = []
    endpoints.notify(lambda: heard.append(1))
    endpoints.run("r1", {"endpoint_id": "near"})
    here.succeed("r1")
    assert heard == [1]
    endpoints.stop()
    assert (here.stops, there.stops) == (1, 1)
