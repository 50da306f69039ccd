"""What stops a start says so in one readable message, with exit code 1."""

from __future__ import annotations

import socket
import time

import pytest

from nebula_core.testing.waiting import eventually


def ends_with_one_message(nebula, *options) -> str:
    nebula.start(*options, wait=False)
    code = nebula.process.wait(60)
    log = nebula.log.read_text()
    assert code == 1, log
    assert "Traceback" not in log
    assert nebula.processes() == {}
    return log


def test_a_missing_model_file(make_nebula):
    nebula = make_nebula('[[models]]\nmodel_uid = "m"\nengine = "llamacpp"\nsource = "/nowhere/model.gguf"\n')
    assert "/nowhere/model.gguf" in ends_with_one_message(nebula)


def test_an_engine_that_dies_at_start_shows_its_last_lines(make_nebula, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"this is no model")
    nebula = make_nebula(f'[[models]]\nmodel_uid = "m"\nengine = "llamacpp"\nsource = "{broken}"\n')
    log = ends_with_one_message(nebula)
    assert "broken.gguf" in log
    assert '"m"' in log


@pytest.mark.parametrize("port", ["port", "admin_port"])
def test_a_port_in_use(make_nebula, port):
    nebula = make_nebula()
    with socket.create_server(("127.0.0.1", getattr(nebula, port))):
        assert f"port {getattr(nebula, port)} on 127.0.0.1 is in use" in ends_with_one_message(nebula)


def test_a_second_nebula_on_the_same_data(make_nebula):
    first, second = make_nebula().start(), make_nebula()
    second.settings.write_text(second.settings.read_text().replace(str(second.data_dir), str(first.data_dir)))
    second.start(wait=False)
    assert second.process.wait(60) == 1
    assert str(first.process.pid) in second.log.read_text()


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ("[router]\nstrategie = 1\n", "strategie"),
        ('[router]\nstrategy = "nonsense"\n', "least_pending"),
        ('[[models]]\nmodel_uid = "m"\nengine = "nonsense"\n', "llamacpp"),
        ('[[models]]\nmodel_uid = "m"\nengine = "external"\nurl = "http://127.0.0.1:1"\n', "urls"),
        ('[plugins]\ndisabled = ["nonsense"]\n', "nonsense"),
        ("[probe_http]\nnonsense = 1\n", "nonsense"),
    ],
)
def test_a_setting_that_nobody_knows(make_nebula, tables, said):
    assert said in ends_with_one_message(make_nebula(tables))


def test_keep_going_serves_what_starts(make_nebula, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"this is no model")
    models = (
        f'[[models]]\nmodel_uid = "broken"\nengine = "llamacpp"\nsource = "{broken}"\n[[models]]\nmodel_uid = "good"\nengine = "llamacpp"\n'
    )
    nebula = make_nebula(models, gateway="wait_s = 1")
    nebula.start("--keep-going", wait=False)
    eventually(lambda: nebula.process.poll() is not None or nebula.answers("good"), 60, nebula.log.read_text)
    answer = nebula.chat("broken")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) <= 60
    eventually(lambda: "broken.gguf" in str(nebula.model("broken")), 30, nebula.log.read_text)


@pytest.mark.parametrize("after_s", [0.2, 0.7, 1.0, 1.3, 2.0])
def test_sigterm_at_any_moment_of_a_start_leaves_nothing_behind(make_nebula, after_s):
    nebula = make_nebula('[[models]]\nmodel_uid = "m"\nengine = "llamacpp"\n').start(wait=False)
    time.sleep(after_s)  # not to wait for anything: to hit another step of the start each time
    assert nebula.stop() in (0, -15)  # -15: Python was still importing
    assert nebula.processes() == {}
