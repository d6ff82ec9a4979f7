"""Several IOCs on one host: each has a TCP port of its own, also when they start at the same moment."""

import asyncio
import os

from harness import CA_PORT

from iocs.channel_access import Server


def test_two_servers_that_bind_at_once_do_not_share_a_port() -> None:
    async def bind() -> list[int]:
        ports, sockets = [], []
        for _ in range(2):
            server = Server({}, interfaces=["127.0.0.1"])
            port, bound = await server._bind_tcp_sockets_with_consistent_port_number(None)
            ports.append(port)
            sockets += bound.values()
        for bound_socket in sockets:
            bound_socket.close()
        return ports

    assert os.environ["EPICS_CA_SERVER_PORT"] == str(CA_PORT)
    first, second = asyncio.run(bind())
    assert first == CA_PORT
    assert second != first
