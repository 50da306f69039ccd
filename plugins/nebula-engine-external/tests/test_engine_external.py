import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nebula_engine_external import nebula_register_engines
from nebula_engine_external.urls import base_url

from nebula_core import Attach, Context, EngineAddress, InvalidModelRequest, LaunchError, ModelRequest, PluginSettings
from nebula_core.testing.engine import EngineContract

HERE = EngineAddress("127.0.0.1", 18000, "generated")


def build():
    [provider] = nebula_register_engines()
    return provider.build(Context(logger=logging.getLogger("test")), PluginSettings())


def request(urls=("http://a:8000",), source=None, **engine_args):
    return ModelRequest(model_uid="Qwen/Qwen3-8B", engine="external", source=source, engine_args={"urls": list(urls), **engine_args})


def only_spec(**engine_args):
    [spec] = build().specs(request(**engine_args))
    return spec


class TestExternalEngine(EngineContract):
    def make_engine(self):
        return build()

    def make_request(self):
        return request(["http://a:8000", "https://b/v1"])


def test_there_is_a_replica_for_each_url_whatever_is_asked_for():
    engine = build()
    specs = engine.specs(request(["http://a:8000/v1/", "https://B/openai/v1", "http://[::1]:9"]))
    assert [engine.launch(spec, HERE, ()) for spec in specs] == [
        Attach("http://a:8000"),
        Attach("https://b/openai"),
        Attach("http://[::1]:9"),
    ]


def test_a_url_that_stays_keeps_its_spec():
    before, after = build().specs(request(["http://a:1", "http://b:1"])), build().specs(request(["http://b:1", "http://c:1"]))
    assert before[1] == after[0]


@pytest.mark.parametrize(
    "url",
    [
        "a:8000",
        "ftp://a",
        "http://",
        "http://a:99999",
        "http://a b",
        "/v1",
        "",
        "http://a?x=1",
        "http://a#x",
        "http://[::1",
        "http://u:p@a",
    ],
)
def test_what_is_no_base_url_is_refused_by_name(url):
    with pytest.raises(InvalidModelRequest, match=r"Qwen/Qwen3-8B.* urls: "):
        build().specs(request([url]))


def test_credentials_in_a_url_are_not_repeated():
    with pytest.raises(InvalidModelRequest) as caught:
        build().specs(request(["http://user:hunter2@a"]))
    assert "hunter2" not in str(caught.value)


def test_one_engine_cannot_be_two_replicas():
    with pytest.raises(InvalidModelRequest, match="http://a:1 is there twice"):
        build().specs(request(["http://a:1/v1", "http://A:1/"]))


@pytest.mark.parametrize(
    "wrong", [{"urls": ()}, {"health_path": "health"}, {"scraper": ""}, {"api_key": "k", "api_key_env": "K"}, {"source": "/m.gguf"}]
)
def test_other_faults_are_refused_too(wrong):
    with pytest.raises(InvalidModelRequest, match="Qwen/Qwen3-8B"):
        build().specs(request(**wrong))


def test_without_urls_there_is_nothing_to_serve():
    with pytest.raises(InvalidModelRequest, match="urls"):
        build().specs(ModelRequest(model_uid="m", engine="external"))


def test_the_engines_know_the_model_by_its_uid_or_the_name_given():
    assert only_spec().served_names == ("Qwen/Qwen3-8B",)
    assert only_spec(served_name="qwen3:8b").served_names == ("qwen3:8b",)


def test_scraper_and_health_page_are_the_models_choice():
    engine, spec = build(), only_spec(scraper="vllm", health_path="/healthz")
    assert (engine.scraper_for(spec), engine.health_path_for(spec)) == ("vllm", "/healthz")
    assert (engine.scraper_for(only_spec()), engine.health_path_for(only_spec())) == (None, "/health")


def test_the_key_is_the_engines_own_not_a_generated_one():
    assert build().launch(only_spec(api_key="sk-theirs"), HERE, ()) == Attach("http://a:8000", "sk-theirs")
    assert build().launch(only_spec(), HERE, ()) == Attach("http://a:8000", "")


def test_a_key_from_the_environment_is_read_on_the_node(monkeypatch):
    spec = only_spec(api_key_env="THEIR_KEY_IN_THIS_TEST")
    with pytest.raises(LaunchError, match="THEIR_KEY_IN_THIS_TEST"):
        build().check(spec)
    monkeypatch.setenv("THEIR_KEY_IN_THIS_TEST", "sk-env")
    assert build().launch(spec, HERE, ()) == Attach("http://a:8000", "sk-env")


@given(
    st.from_regex(r"https?://[a-zA-Z0-9.-]{1,20}(:[1-9][0-9]{0,3})?(/[a-z]{1,5}){0,3}", fullmatch=True),
    st.sampled_from(["", "/", "/v1", "/v1/"]),
)
def test_however_it_is_written_it_is_one_engine(base, ending):
    assert base_url(base + ending) == base_url(base) == base_url(base_url(base))
