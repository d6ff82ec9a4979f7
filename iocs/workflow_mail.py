"""Answers requests to register a model that flows which run elsewhere leave in the mailbox."""

import asyncio
import logging
from collections.abc import Callable

from hpc_bridge.mailbox import Letter, Mailbox
from hpc_bridge.ports import Json
from iocs.server import IocServer
from phasing.errors import PhaselineError
from pvdb import Severity
from pvdb import workflow as pvs

log = logging.getLogger("phaseline.workflow")
PERIOD_S = 1.0


class Mail:
    """Looks into the mailbox and does what its letters ask, one after the other, beside the event loop."""

    def __init__(self, ioc: IocServer, mailbox: Mailbox, register: Callable[[Json], Json]) -> None:
        """`register` may wait; it is called in a thread."""
        self._ioc, self._mailbox, self._register = ioc, mailbox, register

    async def serve(self) -> None:
        """Answer letters until cancelled; a letter whose answer the disk does not take is answered again."""
        told = ""
        while True:
            try:
                for letter in await asyncio.to_thread(self._mailbox.waiting):
                    await asyncio.to_thread(self._answer, letter)
                told = ""
            except OSError as error:
                if str(error) != told:
                    self._ioc.tell(
                        pvs.MODEL_MESSAGE, f"requests to register cannot be answered: {error}", Severity.MAJOR
                    )
                told = str(error)
            await asyncio.sleep(PERIOD_S)

    def _answer(self, letter: Letter) -> None:
        try:
            output = self._register(letter.body)
        except PhaselineError as error:
            self._mailbox.answer(letter.name, error=str(error))
        except (KeyError, TypeError, ValueError) as error:  # a letter that is not what a round sends
            log.exception("the request %s", letter.name)
            self._mailbox.answer(letter.name, error=f"the request is not understood: {type(error).__name__}: {error}")
        else:
            self._mailbox.answer(letter.name, output=output)
