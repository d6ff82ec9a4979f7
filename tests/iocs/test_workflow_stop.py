"""The workflow IOC ends when it is told to, with no edge anywhere on the network."""

import asyncio
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from caproto.threading.client import Context
from harness import running, write_config

from iocs.edge_link import EdgeLink

PATIENCE_S = 300.0


def test_closing_the_link_waits_for_no_thread_and_ends_the_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, ended = threading.Event(), threading.Event()
    real = Context.disconnect

    def disconnect(context: Context, *, wait: bool = True) -> None:
        let_go.wait(PATIENCE_S)  # as caproto waits for its search thread
        real(context, wait=wait)
        ended.set()

    monkeypatch.setattr(Context, "disconnect", disconnect)
    heard: list[object] = []

    async def main() -> EdgeLink:
        link = EdgeLink("NOBODY:", running=heard.append, refused=heard.append, trusted=heard.append)
        link.close()
        return link

    link = asyncio.run(main())
    assert not ended.is_set()
    link._got_model(None, SimpleNamespace(data=[1]))  # the loop is gone: this must not raise in caproto's thread
    link._got_refusal(None, SimpleNamespace(data=b"1 2 reason\0"))
    let_go.set()
    assert ended.wait(PATIENCE_S)
    assert heard == []


def test_a_workflow_ioc_that_finds_no_edge_ends_well_and_says_nothing(tmp_path: Path) -> None:
    with running("workflow", write_config(tmp_path, f"S{os.getpid()}:")):
        pass
    log = (tmp_path / "workflow.log").read_text()
    assert "Traceback" not in log and "rror" not in log
