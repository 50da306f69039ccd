import logging
import sys

import pytest
from nebula_engine_llamacpp import nebula_register_engines

from nebula_core import Context, EngineAddress, InvalidModelRequest, LaunchError, ModelRequest, PluginSettings
from nebula_core.testing.engine import EngineContract

HERE = EngineAddress("127.0.0.1", 18000, "sk-test")


def build():
    [provider] = nebula_register_engines()
    return provider.build(Context(logger=logging.getLogger("test")), PluginSettings())


def request(source=None, replicas=1, gpus=0, **engine_args):
    return ModelRequest(
        model_uid="smol/SmolLM2", engine="llamacpp", source=source, replicas=replicas, gpus_per_replica=gpus, engine_args=engine_args
    )


def argv(source=None, **engine_args):
    engine = build()
    [spec] = engine.specs(request(source, **engine_args))
    return engine.launch(spec, HERE, ()).argv


class TestLlamaCppEngine(EngineContract):
    def make_engine(self):
        return build()

    def make_request(self):
        return request(replicas=2, parallel=2)


def test_replicas_are_equal_and_as_many_as_asked_for():
    specs = build().specs(request(replicas=3, gpus=2))
    assert specs == (specs[0],) * 3
    assert specs[0].gpus == 2
    assert build().specs(request(replicas=0)) == ()


def test_a_spec_holds_only_what_was_asked_for():
    [spec] = build().specs(request(parallel=8))
    assert spec.engine_args == {"parallel": 8}


@pytest.mark.parametrize("wrong", [{"parallel": 0}, {"context_tokens": "many"}, {"pooling": "max"}, {"paralel": 2}])
def test_a_wrong_key_is_refused_with_the_models_name(wrong):
    with pytest.raises(InvalidModelRequest, match=f"smol/SmolLM2.*{next(iter(wrong))}"):
        build().specs(request(**wrong))


def test_a_misspelt_key_is_told_the_known_ones():
    with pytest.raises(InvalidModelRequest, match=r"context_tokens.*parallel"):
        build().specs(request(paralel=2))


def test_without_a_source_it_runs_the_bundled_model_which_also_embeds():
    for source in (None, "smollm2"):
        words = argv(source)
        assert words[0] == sys.executable
        assert words[words.index("--model") + 1].endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
        assert {"--embeddings", "--pooling=mean"} <= set(words)


def test_embeddings_can_be_turned_off():
    assert "--embeddings" not in argv(embeddings=False)


def test_a_file_of_ones_own_is_served_as_it_says_itself(tmp_path):
    file = tmp_path / "a model.gguf"
    file.touch()
    words = argv(str(file), parallel=2, chat_template="chatml")
    assert words[words.index("--model") + 1] == str(file)
    assert {"--parallel=2", "--chat-template=chatml"} <= set(words)
    assert not {"--embeddings", "--pooling=mean"} & set(words)


def test_a_missing_file_is_named_with_the_way_out(tmp_path):
    engine = build()
    [spec] = engine.specs(request(str(tmp_path / "gone.gguf")))
    with pytest.raises(LaunchError, match=r"gone\.gguf.*not a file.*smollm2"):
        engine.check(spec)


def test_it_sees_the_gpus_it_was_given_and_no_other():
    engine = build()
    [spec] = engine.specs(request())
    assert engine.launch(spec, HERE, (2, 3)).env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert engine.launch(spec, HERE, ()).env["CUDA_VISIBLE_DEVICES"] == ""
