"""The processes behind the public port, and the port itself."""

from __future__ import annotations

import logging
import socket

import pytest

from nebula_core.gateway.supervisor import Supervisor


async def test_who_connects_while_workers_finish_is_refused_at_once_and_need_not_wait(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        supervisor = Supervisor([listener], tmp_path / "hub", "generation", logging.getLogger("test"))
        await supervisor.wait_gone(0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=1)
