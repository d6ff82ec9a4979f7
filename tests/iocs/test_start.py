"""An IOC that cannot start says why in one line; one that starts says so when it serves, and ends when told to."""

import os
import socket

import clients
import pytest
from served_ioc import PREFIX, SERVED

PATIENT = "import sys, iocs.server; iocs.server.TWIN_TIMEOUT_S = 30; from iocs.cli import main; sys.exit(main())"


def start_and_fail(place, *program):
    """What an IOC that cannot start prints; `program` is how Python is to run it."""
    (place.folder / "c.toml").write_text(f'root = "{place.folder}/data"\n{place.ports.toml()}')
    printed, error = place.python(*(program or ("-m", "iocs.cli")), "ioc", "detector", "--config", "c.toml", status=1)
    assert printed == "" and "Traceback" not in error
    return [line for line in error.splitlines() if line.startswith("phaseline: ")]


PORTS = {"ca_port": "Channel Access port {} cannot be had", "pva_broadcast_port": "pvAccess port {} cannot be had"}


@pytest.mark.parametrize("which", PORTS)
def test_a_port_that_is_taken_is_named(fresh_place, which):
    port = getattr(fresh_place.ports.network, which)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", port))
        [line] = start_and_fail(fresh_place)
    assert PORTS[which].format(port) in line


def test_tcp_ports_that_are_taken_do_not_matter(fresh_place):
    network = fresh_place.ports.network
    with socket.socket() as ca, socket.socket() as pva:
        ca.bind(("0.0.0.0", network.ca_port))
        pva.bind(("0.0.0.0", network.pva_port))
        ioc = fresh_place.start(SERVED, "workflow", PREFIX)
        assert fresh_place.call(read_both, PREFIX) == [50, 50]
        ioc.stop()


def read_both(prefix):
    with clients.pva() as context:
        return [clients.ca_get(f"{prefix}Train:Epochs"), int(context.get(f"{prefix}Train:Epochs"))]


def test_a_second_ioc_of_the_same_name_is_refused(fresh_place):
    first = fresh_place.start(SERVED, "detector", "PTY:")
    [line] = start_and_fail(fresh_place, "-c", PATIENT)  # a slow machine answers late
    assert "PTY:Det:Ioc:Heartbeat is served already, by 127.0.0.1" in line
    assert first.process.poll() is None
    fresh_place.start(SERVED, "detector", "PTX:")  # another prefix on the same ports is welcome


def test_it_serves_when_it_says_so_and_ends_when_told(fresh_place):
    for _ in range(2):  # the ports are free again
        ioc = fresh_place.start(SERVED, "workflow", PREFIX)
        assert fresh_place.call(read_health, PREFIX) == [ioc.process.pid] * 2
        ioc.stop()


def read_health(prefix):
    with clients.pva() as context:
        heartbeat = clients.Seen()
        watch = clients.monitor(context, f"{prefix}Workflow:Ioc:Heartbeat", lambda value: heartbeat.add(int(value)))
        first = heartbeat.until(lambda beat: True)
        heartbeat.until(lambda beat: beat > first)
        watch.close()
        name = f"{prefix}Workflow:Ioc:ProcessId"
        return [clients.ca_get(name), int(context.get(name))]


def stop_while_an_action_runs(prefix, pid):
    import signal

    with clients.pva() as context:
        busy = clients.Seen()
        message = clients.Seen()
        watches = [
            clients.monitor(context, f"{prefix}Train:Start_RBV", lambda value: busy.add(int(value))),
            clients.monitor(context, f"{prefix}Train:Message", lambda value: message.add(value.raw.value)),
        ]
        done = clients.background(clients.pva_put, context, f"{prefix}Train:Start", 1)
        busy.until(lambda value: value == 1)
        os.kill(pid, signal.SIGTERM)
        message.until(lambda text: text == "cleaned up")  # the action is ended in order, and seen to be
        result = done.get(timeout=clients.DEADLINE_S)[0]
        [watch.close() for watch in watches]
    return result


def test_a_running_action_is_ended_when_the_ioc_stops(fresh_place):
    ioc = fresh_place.start(SERVED, "workflow", PREFIX)
    assert fresh_place.call(stop_while_an_action_runs, PREFIX, ioc.process.pid) == "ok"
    assert ioc.process.wait(clients.DEADLINE_S) == 0
