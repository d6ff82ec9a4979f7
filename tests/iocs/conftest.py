import sys
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import loopback
import pytest
from served_ioc import AREAS, PREFIX, SERVED


@contextmanager
def a_place(folder):
    """Ports, folder, processes and clients; every IOC must end when it is told to, without a traceback."""
    ports = loopback.Ports()
    environment = ports.environment()
    started = []

    def start(*arguments):
        started.append(loopback.Process(arguments, environment, folder))
        return started[-1]

    try:
        yield SimpleNamespace(
            ports=ports,
            folder=folder,
            start=start,
            call=lambda function, *arguments: loopback.call(function, arguments, environment, folder),
            run=partial(loopback.run, environment=environment, folder=folder),
            python=lambda *arguments, status=0: loopback.run(
                [sys.executable, *arguments], environment, folder, status=status
            ),
        )
        for ioc in started:
            if ioc.process.poll() is None:
                ioc.stop()
    finally:
        for ioc in started:
            ioc.kill()
        ports.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One place for the tests of a module."""
    with a_place(tmp_path_factory.mktemp("ioc")) as place:
        yield place


@pytest.fixture
def fresh_place(tmp_path):
    """A place of the test's own."""
    with a_place(tmp_path) as place:
        yield place


@pytest.fixture(scope="module")
def iocs(place):
    """The declarations of all three IOCs, each served by one process under its initial as the prefix."""
    for ioc in AREAS:
        place.start(SERVED, ioc, f"{ioc[0].upper()}:")
    return place


@pytest.fixture
def workflow(place):
    """A fresh workflow IOC with steerable handlers, so that no test sees what another put."""
    ioc = place.start(SERVED, "workflow", PREFIX)
    yield place
    ioc.stop()
