"""The command line's client against a real admin API, and against what is none."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from nebula_core.admin import token
from nebula_core.admin.client import AdminClient, url_of
from nebula_core.admin.server import AdminServer, bind
from nebula_core.errors import AdminError, NebulaError
from nebula_core.settings import Settings


async def call(nebula, method, *arguments):
    def do():
        with AdminClient.from_settings(nebula.settings) as client:
            return getattr(client, method)(*arguments)

    return await asyncio.to_thread(do)


async def test_it_finds_address_and_token_by_the_settings(nebula):
    assert await call(nebula, "load", "a/b", {"engine": "fake"}) == {"model_uid": "a/b", "change": "created"}
    assert (await call(nebula, "scale", "a/b", 3))["wanted"] == 3
    assert [model["model_uid"] for model in await call(nebula, "models")] == ["a/b"]
    assert (await call(nebula, "model", "a/b"))["request"]["replicas"] == 3
    assert (await call(nebula, "status"))["store"]["connected"] is True
    assert (await call(nebula, "unload", "a/b"))["change"] == "deleted"
    assert (await call(nebula, "apply", [{"model_uid": "m", "engine": "fake"}]))["models"][0]["change"] == "created"
    assert (await call(nebula, "settings"))["admin"]["port"] == nebula.settings.admin.port
    assert await call(nebula, "metrics") == {"families": []}
    assert await call(nebula, "plugins") == []


@pytest.mark.parametrize("name", ["a b", "100%", "a%2Fb", "x?y=1#z", "模型", "org/name:tag@4bit"])
async def test_any_name_that_is_allowed_comes_through(nebula, name):
    await call(nebula, "load", name, {"engine": "fake"})
    assert (await call(nebula, "model", name))["model_uid"] == name


async def test_a_refusal_is_an_error_with_the_servers_words(nebula):
    with pytest.raises(AdminError, match=r'there is no model "nope" \(models: none\)'):
        await call(nebula, "unload", "nope")


async def test_another_nebulas_token_is_refused_with_the_files_name(nebula, tmp_path):
    (tmp_path / "other").mkdir()
    token.ensure(tmp_path / "other")
    nebula.settings = nebula.settings.model_copy(update={"data_dir": tmp_path / "other"})
    with pytest.raises(AdminError, match=r"refused the token in .*other/admin.token"):
        await call(nebula, "status")


def test_nobody_there_says_how_to_start_one(tmp_path):
    token.ensure(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings = Settings.model_validate({"data_dir": tmp_path, "admin": {"port": free.getsockname()[1]}})
        with (
            AdminClient.from_settings(settings) as client,
            pytest.raises(AdminError, match=r"no Nebula answers at http://127.0.0.1:\d+; start one with `nebula up`"),
        ):
            client.status()


async def stranger(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"<html>"})


async def test_another_program_on_the_port_is_told_apart():
    async with AdminServer(stranger, bind("127.0.0.1", 0)) as server:
        with (
            AdminClient(server.url, "t") as client,
            pytest.raises(AdminError, match="is not Nebula's admin API"),
        ):
            await asyncio.to_thread(client.status)


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:8081"), ("0.0.0.0", "http://127.0.0.1:8081"), ("::", "http://[::1]:8081")]
)
def test_the_address_is_one_that_can_be_reached_from_here(host, url):
    assert url_of(Settings.model_validate({"admin": {"host": host}})) == url


def test_a_port_in_use_is_named():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(NebulaError, match=r"port \d+ on 127.0.0.1 is in use; .*\[admin\] port"),
    ):
        bind("127.0.0.1", taken.getsockname()[1])


async def test_the_server_leaves_signals_alone_and_closes_its_port():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with AdminServer(stranger, listener):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    bind("127.0.0.1", port).close()
