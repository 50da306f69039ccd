import json
import logging
import os

import pytest
from nebula_engine_vllm import VllmSettings, nebula_register_engines

from nebula_core import Context, EngineAddress, InvalidModelRequest, LaunchError, ModelRequest
from nebula_core.testing.engine import EngineContract

HERE = EngineAddress("127.0.0.1", 18000, "sk-test")


def build(*command):
    [provider] = nebula_register_engines()
    settings = VllmSettings(command=command) if command else VllmSettings()
    return provider.build(Context(logger=logging.getLogger("test")), settings)


def request(source="Qwen/Qwen3-8B-FP8", model_uid="Qwen/Qwen3-8B", aliases=(), replicas=1, gpus=0, **engine_args):
    return ModelRequest(
        model_uid=model_uid,
        engine="vllm",
        source=source,
        aliases=aliases,
        replicas=replicas,
        gpus_per_replica=gpus,
        engine_args=engine_args,
    )


def launch(gpu_indexes=(), command=(), **asked):
    engine = build(*command)
    [spec] = engine.specs(request(gpus=len(gpu_indexes), **asked))
    return engine.launch(spec, HERE, gpu_indexes)


def words(**asked):
    return launch(**asked).argv


def program(folder, name="vllm"):
    path = folder / name
    path.touch(0o755)
    return str(path)


@pytest.fixture(scope="class")
def installed(request, tmp_path_factory):
    request.cls.command = program(tmp_path_factory.mktemp("bin"))


@pytest.mark.usefixtures("installed")
class TestVllmEngine(EngineContract):
    command: str

    def make_engine(self):
        return build(self.command)

    def make_request(self):
        return request(replicas=2, aliases=("sql",), lora_modules={"sql": "me/sql-lora"}, max_model_len=4096, env={"A": "b"})


def test_the_whole_command_line_of_a_model_that_asks_for_nothing():
    assert words() == (
        *("vllm", "serve", "Qwen/Qwen3-8B-FP8", "--enable-prompt-tokens-details"),
        *("--served-model-name=Qwen/Qwen3-8B", "--host=127.0.0.1", "--port=18000"),
    )


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        ({"max_model_len": 8192}, {"--max-model-len=8192"}),
        ({"gpu_memory_utilization": 0.85}, {"--gpu-memory-utilization=0.85"}),
        ({"dtype": "bfloat16"}, {"--dtype=bfloat16"}),
        ({"seed": 0}, {"--seed=0"}),
        ({"gpu_indexes": (3,)}, {"--tensor-parallel-size=1"}),
        ({"gpu_indexes": (0, 1, 2, 3)}, {"--tensor-parallel-size=4"}),
        ({"gpu_indexes": (0, 1, 2, 3), "pipeline_parallel_size": 2}, {"--tensor-parallel-size=2", "--pipeline-parallel-size=2"}),
        ({"gpu_indexes": (4, 5), "data_parallel_size": 2}, {"--tensor-parallel-size=1", "--data-parallel-size=2"}),
        ({"extra_args": ["--quantization", "fp8", "-O3"]}, {"--quantization", "fp8", "-O3"}),
    ],
)
def test_a_key_becomes_a_flag_and_nothing_else_changes(asked, flags):
    assert set(words(**asked)) - set(words()) == flags


def test_extra_words_stay_in_order_and_before_what_nebula_sets():
    argv = words(extra_args=["--chat-template", "/t.jinja", "--max-loras=2"])
    assert " --chat-template /t.jinja --max-loras=2 --served-model-name" in " ".join(argv)


def test_lora_adapters_are_served_by_name(tmp_path):
    asked = {"sql": str(tmp_path), "a=b": "me/lora"}
    argv = words(aliases=("sql", "a=b"), lora_modules=asked)
    modules = argv[argv.index("--lora-modules") + 1 :][:2]
    assert "--enable-lora" in argv
    assert [json.loads(module) for module in modules] == [{"name": name, "path": path} for name, path in asked.items()]


def test_clients_names_go_through_as_they_are_only_where_vllm_knows_them():
    [spec] = build().specs(request(aliases=("qwen", "sql"), lora_modules={"sql": "me/lora"}))
    assert spec.served_names == ("Qwen/Qwen3-8B", "sql")


def test_a_new_alias_and_another_order_of_adapters_load_no_model_anew():
    loras = {"a": "me/a", "b": "me/b"}
    [before] = build().specs(request(aliases=("a", "b"), lora_modules=loras))
    [after] = build().specs(request(aliases=("b", "a", "new"), lora_modules=dict(reversed(loras.items()))))
    assert before.version("node", (0,)) == after.version("node", (0,))


def test_an_adapter_that_clients_cannot_ask_for_is_refused():
    with pytest.raises(InvalidModelRequest, match=r"Qwen/Qwen3-8B.*lora_modules.*'sql'.*aliases"):
        build().specs(request(aliases=("qwen",), lora_modules={"sql": "me/lora"}))


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("--model", "source"),
        ("--served-model-name=x", "model_uid and aliases"),
        ("--served_model_name=x", "model_uid and aliases"),
        ("--port", "engine_ports"),
        ("--api-key=sk-mine", "Nebula makes a key"),
        ("-tp", "gpus_per_replica"),
        ("-tp=4", "gpus_per_replica"),
        ("--tensor-parallel-size", "gpus_per_replica"),
        ("--tensor-par=4", "gpus_per_replica"),
        ("--max_model_len=8", "use max_model_len"),
        ("--gpu-memory-utilization", "use gpu_memory_utilization"),
        ("--no-enable-lora", "use lora_modules"),
        ("--ssl-keyfile", "plain HTTP"),
        ("--config", "write its lines here"),
    ],
)
def test_what_nebula_sets_is_refused_in_extra_args_with_the_key_to_use(word, instead):
    with pytest.raises(InvalidModelRequest, match=rf"Qwen/Qwen3-8B.*extra_args\.1: .*{instead}"):
        build().specs(request(extra_args=["--enforce-eager", word]))


@pytest.mark.parametrize("name", ["VLLM_API_KEY", "CUDA_VISIBLE_DEVICES", "NOT A NAME", ""])
def test_what_nebula_sets_is_refused_in_the_environment(name):
    with pytest.raises(InvalidModelRequest, match=r"Qwen/Qwen3-8B.* env\."):
        build().specs(request(env={name: "x"}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_model_len": 0},
        {"gpu_memory_utilization": 90},
        {"dtype": "int3"},
        {"seed": -1},
        {"extra_args": "--enforce-eager"},
        {"env": {"OMP_NUM_THREADS": 1}},
        {"lora_modules": ["sql=/lora"]},
        {"max_modellen": 4096},
    ],
)
def test_a_wrong_key_is_refused_with_the_models_name(wrong):
    with pytest.raises(InvalidModelRequest, match=f"Qwen/Qwen3-8B.*{next(iter(wrong))}"):
        build().specs(request(**wrong))


def test_gpus_that_cannot_be_divided_are_refused():
    with pytest.raises(InvalidModelRequest, match=r"gpus_per_replica \(3\).*multiple.*pipeline_parallel_size"):
        build().specs(request(gpus=3, pipeline_parallel_size=2))


def test_without_a_source_the_models_own_name_is_what_is_loaded():
    assert words(source=None)[2] == "Qwen/Qwen3-8B"


@pytest.mark.parametrize("asked", [{"source": None, "model_uid": "qwen"}, {"source": "--help"}])
def test_a_source_that_can_be_neither_folder_nor_hub_id_is_refused(asked):
    with pytest.raises(InvalidModelRequest, match="source: name a folder"):
        build().specs(request(**asked))


def test_the_key_and_the_models_variables_are_in_the_environment_and_gpus_are_left_to_the_node():
    assert launch(gpu_indexes=(1,), env={"HF_HUB_OFFLINE": "1"}).env == {"HF_HUB_OFFLINE": "1", "VLLM_API_KEY": "sk-test"}


def test_vllm_finds_the_programs_of_an_environment_that_nobody_activated():
    started = launch(command=("/opt/vllm/bin/vllm",))
    assert started.argv[:2] == ("/opt/vllm/bin/vllm", "serve")
    assert started.env["PATH"].split(os.pathsep)[0] == "/opt/vllm/bin"


def test_a_missing_command_is_named_with_the_setting(tmp_path):
    engine = build(str(tmp_path / "vllm"))
    [spec] = engine.specs(request())
    with pytest.raises(LaunchError, match=rf"{tmp_path}/vllm is not found.*\[engine_vllm\] command"):
        engine.check(spec)


@pytest.mark.parametrize("what", ["source", "adapter"])
def test_a_missing_folder_is_named_with_the_way_out(tmp_path, what):
    engine = build(program(tmp_path))
    gone = str(tmp_path / "gone")
    asked = {"source": gone} if what == "source" else {"aliases": ("sql",), "lora_modules": {"sql": gone}}
    [spec] = engine.specs(request(**asked))
    with pytest.raises(LaunchError, match=f"{what}.*{gone}.*not on this node.*Hugging Face"):
        engine.check(spec)


def test_folders_that_are_there_are_fine(tmp_path):
    engine = build(program(tmp_path))
    [spec] = engine.specs(request(source=str(tmp_path), aliases=("sql",), lora_modules={"sql": str(tmp_path)}))
    engine.check(spec)
