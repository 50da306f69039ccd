"""vLLM itself on the CPU, with a tiny model of random weights, under a whole Nebula. `make test-vllm` runs this; it takes minutes.

The tests share one Nebula and run in the order they stand in: the last ones kill the engine, and stop everything.
"""

import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from nebula_core.testing.waiting import eventually
from nebula_core.testing.whole import Nebula

NAMED = os.environ.get("TEST_VLLM", "")
VLLM = str(Path(NAMED).absolute())
MAKE_MODEL = Path(__file__).parents[1] / "testing/tiny_model.py"
MODEL = "lab/tiny"
SLOTS = 2
LOADED_S = 400.0
"""Thirty seconds alone on two cores; a busy machine takes several times that."""

pytestmark = [
    pytest.mark.skipif(not NAMED, reason="TEST_VLLM names no `vllm` command: `make test-vllm` installs one and runs this"),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("vllm"),
]


def tables(folder):
    return f"""
[engine_vllm]
command = ["{VLLM}"]
[[models]]
model_uid = "{MODEL}"
aliases = ["tiny", "tiny-lora"]
engine = "vllm"
source = "{folder}"
dtype = "bfloat16"
max_model_len = 4096
seed = 7
lora_modules = {{ tiny-lora = "{folder}/lora" }}
extra_args = ["--load-format", "dummy", "--max-num-seqs", "{SLOTS}", "--enforce-eager"]
[models.env]
HF_HUB_OFFLINE = "1"
OMP_NUM_THREADS = "1"
TMPDIR = "{folder.parent}"
VLLM_CPU_KVCACHE_SPACE = "1"
VLLM_CPU_OMP_THREADS_BIND = "nobind"
VLLM_NO_USAGE_STATS = "1"
"""


@pytest.fixture(scope="module")
def nebula(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    subprocess.run([Path(VLLM).with_name("python"), MAKE_MODEL, folder / "tiny"], check=True)
    nebula, began = Nebula(folder, tables(folder / "tiny")), time.monotonic()
    try:
        nebula.start(wait=False)
        eventually(nebula.is_up, LOADED_S, nebula.log.read_text)
        print(f"\nup after {time.monotonic() - began:.0f} s\n{nebula.cli('status').stdout}")
        yield nebula
    finally:
        left = engine_processes(nebula)
        nebula.close()
        for pid in left:
            end(pid)


@pytest.fixture(scope="module")
def segments():
    """Shared memory of the engines that ran. Where one ends by force, its cleaner does so too, and the segments stay."""
    seen = set()
    yield seen
    for segment in seen:
        segment.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _note_segments(segments, nebula):
    segments |= shared_memory(engine_processes(nebula))


@pytest.fixture(scope="module")
def client(nebula):
    with openai.OpenAI(base_url=f"{nebula.url}/v1", api_key="any", timeout=120) as client:
        yield client


def say(client, text, model=MODEL, tokens=12, **fields):
    messages = [{"role": "user", "content": text}]
    asked = {"max_tokens": tokens, "temperature": 0, "extra_body": {"ignore_eos": True}, **fields}
    return client.chat.completions.create(model=model, messages=messages, **asked)


def stream(client, text, **fields):
    """Seconds to the first token, the whole text, and the usage."""
    began, first, pieces, usage = time.monotonic(), None, [], None
    for chunk in say(client, text, stream=True, stream_options={"include_usage": True}, **fields):
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.monotonic() - began
            pieces.append(chunk.choices[0].delta.content)
        usage = chunk.usage or usage
    return first, "".join(pieces), usage


def metric(nebula, name):
    page = httpx.get(f"http://127.0.0.1:{nebula.admin_port}/metrics", trust_env=False).text
    found = re.search(rf'^{name}{{model_uid="{MODEL}",replica_id="0"}} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else None


def server_pid(nebula):
    [pid] = [pid for pid, line in nebula.processes().items() if " serve " in line and "shim" not in line]
    return pid


def engine_processes(nebula):
    """The server and all that it started: the runtime gives each engine a session of its own."""
    servers = {pid for pid, line in nebula.processes().items() if " serve " in line and "shim" not in line}
    return {int(path.name) for path in Path("/proc").glob("[0-9]*") if session(path) in servers}


def session(process):
    try:
        stat = (process / "stat").read_text()
    except OSError:
        return 0
    return int(stat[stat.rindex(")") + 2 :].split()[3])


def shared_memory(pids):
    """The segments that these processes share. A name in the shared folder that is not theirs is left alone."""
    found = set()
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            continue
        found |= {Path(path) for path in re.findall(r"/dev/shm/psm_\w+", maps)}
    return found


def alive(pids):
    return {pid for pid in pids if session(Path(f"/proc/{pid}"))}


def end(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_it_completes_and_streams_the_same_for_every_name(nebula, client):
    whole = say(client, "Say hi.")
    _, text, usage = stream(client, "Say hi.", model="tiny")
    assert whole.model == MODEL
    assert text == whole.choices[0].message.content != ""
    assert usage.completion_tokens == whole.usage.completion_tokens == 12


def test_a_lora_adapter_is_asked_for_by_its_name(nebula, client):
    answer = say(client, "Say hi.", model="tiny-lora")
    assert answer.model == "tiny-lora"
    assert answer.choices[0].message.content != say(client, "Say hi.").choices[0].message.content


def test_a_prompt_said_again_is_cached(nebula, client):
    prompt = "A long story about a cat. " * 350
    cold, _, first = stream(client, prompt)
    warm, _, second = stream(client, prompt)
    print(f"\nfirst token of {first.prompt_tokens} tokens: {cold * 1000:.0f} ms cold, {warm * 1000:.0f} ms warm")
    assert first.prompt_tokens_details.cached_tokens == 0
    assert second.prompt_tokens_details.cached_tokens > second.prompt_tokens / 2


def test_its_load_is_on_the_page_of_the_admin_port(nebula, client):
    with ThreadPoolExecutor(SLOTS + 2) as pool:
        answers = [pool.submit(say, client, f"Count to {n}.", tokens=1500) for n in range(SLOTS + 2)]
        eventually(lambda: metric(nebula, "nebula_engine_pending_requests") == 2, 60)
        eventually(lambda: (metric(nebula, "nebula_engine_kv_cache_usage") or 0) > 0, 60)
        assert metric(nebula, "nebula_engine_running_requests") == SLOTS
        assert all(answer.result().usage.completion_tokens == 1500 for answer in answers)
    eventually(lambda: metric(nebula, "nebula_engine_running_requests") == metric(nebula, "nebula_engine_kv_cache_usage") == 0, 60)


def test_only_nebulas_key_opens_the_engine_and_no_user_can_read_it(nebula):
    [replica] = nebula.model(MODEL)["replicas"]
    wrong = {"authorization": "Bearer wrong"}
    assert httpx.get(f"{replica['url']}/v1/models", headers=wrong, trust_env=False).status_code == 401
    environment = Path(f"/proc/{server_pid(nebula)}/environ").read_bytes().decode()
    key = re.search(r"VLLM_API_KEY=([^\0]+)", environment)[1]
    right = {"authorization": f"Bearer {key}"}
    assert httpx.get(f"{replica['url']}/v1/models", headers=right, trust_env=False).status_code == 200
    assert not any(key.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in engine_processes(nebula))


@pytest.mark.parametrize("victim", ["the server", "its core"])
def test_a_killed_engine_comes_back_and_its_other_processes_end(nebula, client, victim):
    before, server = engine_processes(nebula), server_pid(nebula)
    end(server if victim == "the server" else core_of(before))
    killed = time.monotonic()
    eventually(lambda: not alive(before), 60, lambda: f"still there: {alive(before)}")
    eventually(lambda: nebula.model(MODEL)["ready"] == 1 and server_pid(nebula) != server, LOADED_S, nebula.log.read_text)
    print(f"\n{victim} killed: ready again after {time.monotonic() - killed:.0f} s")
    assert say(client, "Say hi.").choices[0].message.content


def core_of(pids):
    [core] = [pid for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"VLLM::EngineCore")]
    return core


def test_stopping_nebula_leaves_no_process_and_no_port(nebula):
    before = engine_processes(nebula)
    [replica] = nebula.model(MODEL)["replicas"]
    began = time.monotonic()
    assert nebula.stop() == 0
    print(f"\nstopped after {time.monotonic() - began:.1f} s")
    assert not alive(before)
    assert not nebula.processes()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{replica['url']}/health", trust_env=False)
