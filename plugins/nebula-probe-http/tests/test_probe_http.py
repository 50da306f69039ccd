import logging

import httpx
import pytest
from nebula_probe_http import nebula_register_probes

from nebula_core import Context, Health, PluginError, PluginSettings
from nebula_core.testing.probe import ProbeContract, response


def build(http):
    [provider] = nebula_register_probes()
    return provider.build(Context(logger=logging.getLogger("test"), http=http), PluginSettings())


class TestHttpProbe(ProbeContract):
    def make_probe(self, http):
        return build(http)

    async def test_it_asks_for_the_health_page_with_the_key(self):
        heads = []
        await self.look(lambda head: heads.append(head) or response(200), "/v1/health", "sk-1")
        assert heads[0].startswith(b"GET /v1/health HTTP/1.1\r\n")
        assert b"authorization: bearer sk-1\r\n" in heads[0].lower()

    async def test_without_a_key_it_sends_none(self):
        heads = []
        await self.look(lambda head: heads.append(head) or response(200))
        assert b"authorization" not in heads[0].lower()

    @pytest.mark.parametrize("status", [200, 204, 401, 403, 404, 405, 501])
    async def test_a_server_without_a_health_page_is_alive(self, status):
        assert await self.look(lambda head: response(status, b"")) == Health(ok=True)

    @pytest.mark.parametrize("status", [302, 400, 429, 500, 502, 503])
    async def test_other_answers_mean_that_it_cannot_serve(self, status):
        assert await self.look(lambda head: response(status, b"")) == Health(ok=False, reason=str(status))

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', "503: Loading model"),
            (b'{"detail":"starting"}', "503: starting"),
            (b"warming\n up", "503: warming up"),
            (b"<html>Service Unavailable</html>", "503"),
            (b"[1, 2]", "503: [1, 2]"),
        ],
    )
    async def test_the_reason_is_the_servers_own_message(self, body, reason):
        assert await self.look(lambda head: response(503, body)) == Health(ok=False, reason=reason)

    async def test_a_huge_answer_is_not_read_to_its_end(self):
        health = await self.look(lambda head: response(503, b"x" * 50_000_000))
        assert len(health.reason) < 300

    async def test_a_key_of_any_characters_does_no_harm(self):
        assert (await self.look(lambda head: response(200), api_key="schlüssel")).ok
        assert not (await self.look(lambda head: response(200), api_key="two\nlines")).ok

    async def test_silence_is_called_so(self):
        async with httpx.AsyncClient(trust_env=False, timeout=0.05) as http:
            self.make_probe = lambda _: build(http)
            assert await self.look(lambda head: None) == Health(ok=False, reason="no answer in time")


def test_in_a_gateway_worker_it_cannot_be_built():
    with pytest.raises(PluginError, match="HTTP client"):
        build(None)
