"""Client channels by the names that a configuration gives: pvAccess, or Channel Access where a name says so."""

import pvaccess as pva

from iocs.config import CHANNEL_ACCESS

PV_ACCESS = "pva://"


def open_channel(name: str) -> pva.Channel:
    """A channel over Channel Access where the name begins with `ca://`, else over pvAccess; `pva://` may say that."""
    if name.startswith(CHANNEL_ACCESS):
        return pva.Channel(name.removeprefix(CHANNEL_ACCESS), pva.CA)
    return pva.Channel(name.removeprefix(PV_ACCESS), pva.PVA)
