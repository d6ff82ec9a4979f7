"""Asking whether a Channel Access name is served already, before serving it."""

import asyncio
import logging
import socket
from typing import Any

import caproto as ca

log = logging.getLogger("phaseline.ioc")
_ASKED_S = (0.0, 0.1, 0.2)


class _Answers(asyncio.DatagramProtocol):
    """Takes the first answer to a search."""

    def __init__(self, broadcaster: ca.Broadcaster) -> None:
        self.host: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._broadcaster = broadcaster

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        try:
            commands = self._broadcaster.recv(data, addr)
        except ca.RemoteProtocolError:
            return
        if any(isinstance(command, ca.SearchResponse) for command in commands) and not self.host.done():
            self.host.set_result(addr[0])


async def find_server(name: str, timeout_s: float) -> str | None:
    """The address of a host that serves a Channel Access name, asked for as clients would; None if nobody answers.

    An answer that takes longer than `timeout_s` is missed, so this finds the ordinary mistake and proves nothing.
    """
    broadcaster = ca.Broadcaster(our_role=ca.CLIENT)
    version = ca.DEFAULT_PROTOCOL_VERSION
    request = broadcaster.send(ca.VersionRequest(0, version), ca.SearchRequest(name, 0, version))
    loop = asyncio.get_running_loop()
    udp = ca.bcast_socket()
    udp.bind(("", 0))
    transport, answers = await loop.create_datagram_endpoint(lambda: _Answers(broadcaster), sock=udp)
    addresses = _addresses()
    asking = [
        loop.call_later(asked_s, transport.sendto, request, address)
        for asked_s in _ASKED_S  # several times, for a datagram may be lost
        for address in addresses
    ]
    try:
        return await asyncio.wait_for(answers.host, timeout_s)
    except TimeoutError:
        return None
    finally:
        for ask in asking:
            ask.cancel()
        transport.close()


def _addresses() -> list[tuple[str, int]]:
    """Where clients on this host look for names; a host that nobody knows is left out, as clients leave it out."""
    found = []
    for host, port in ca.get_client_address_list():
        try:
            found.append((socket.gethostbyname(host), port))
        except OSError:
            log.warning("EPICS_CA_ADDR_LIST: %s is not known", host)
    return found
