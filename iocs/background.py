"""Work beside the serving of PVs that goes on for as long as an IOC runs, whatever happens to it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("phaseline.ioc")
AGAIN_S = 5.0


async def kept_up(serve: Callable[[], Awaitable[None]], failed: Callable[[str], None]) -> None:
    """Call `serve` until it returns; when it raises, `failed` hears why, and it is called again after AGAIN_S."""
    while True:
        try:
            await serve()
            return
        except Exception as error:  # nobody awaits this work: what is not told here is never known
            log.exception("work in the background failed")
            failed(f"interrupted by {type(error).__name__}: {error}; it begins again in {AGAIN_S:g} s")
        await asyncio.sleep(AGAIN_S)
