"""Client channels by the names that a configuration gives: pvAccess, or Channel Access where a name says so."""

import pvaccess as pva

from iocs.config import CHANNEL_ACCESS

PV_ACCESS = "pva://"
_OPENED: list[pva.Channel] = []
"""Kept until the process ends: pvapy 5.6 crashes when a channel goes while it calls back, also after stopMonitor."""


def open_channel(name: str) -> pva.Channel:
    """A channel over Channel Access where the name begins with `ca://`, else over pvAccess; `pva://` may say that."""
    if name.startswith(CHANNEL_ACCESS):
        channel = pva.Channel(name.removeprefix(CHANNEL_ACCESS), pva.CA)
    else:
        channel = pva.Channel(name.removeprefix(PV_ACCESS), pva.PVA)
    _OPENED.append(channel)
    return channel
