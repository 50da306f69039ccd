"""What a plugin's hooks do in a running Nebula, and what its faults do to others."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from nebula_core.testing.made_up import install

PLUGIN = '''
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Request
from nebula_core import Pick, Provider, Strategy, hookimpl

HERE = Path(__file__).parent


class Fails(Strategy):
    def select(self, request, candidates):
        raise RuntimeError("this strategy is broken")


@hookimpl
def nebula_register_strategies():
    return [Provider(name="fails", build=lambda context, settings: Fails())]


@hookimpl
def nebula_lifespan(app, role):
    @asynccontextmanager
    async def lifespan():
        (HERE / f"{role}.entered").write_text(app.settings.router.strategy)
        yield
        (HERE / f"{role}.left").touch()

    return lifespan()


@hookimpl
def nebula_add_routes(app):
    @app.get("/admin/v1/lab")
    def lab(request: Request):
        return {"strategy": request.app.state.nebula.settings.router.strategy}


@hookimpl
def nebula_add_cli(cli):
    @cli.command()
    def lab():
        """Say something."""
        print("forty-two")
'''


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Path:
    return install(tmp_path / "plugins", PLUGIN)


@pytest.fixture
def nebula(make_nebula, plugin_folder):
    return make_nebula(
        '[router]\nstrategy = "fails"\n[[models]]\nmodel_uid = "m"\nengine = "llamacpp"\n', python_path=plugin_folder
    ).start()


def test_a_plugin_adds_a_lifespan_a_route_and_a_command(nebula, plugin_folder):
    assert {path.name for path in plugin_folder.glob("*.entered")} == {"gateway.entered", "scheduler.entered", "node.entered"}
    token = (nebula.data_dir / "admin.token").read_text().strip()
    url = f"http://127.0.0.1:{nebula.admin_port}/admin/v1/lab"
    assert httpx.get(url, trust_env=False).status_code == 401
    assert httpx.get(url, headers={"authorization": f"Bearer {token}"}, trust_env=False).json() == {"strategy": "fails"}
    assert nebula.cli("lab", settings=False).stdout == "forty-two\n"
    nebula.stop()
    assert {path.name for path in plugin_folder.glob("*.left")} == {"gateway.left", "scheduler.left", "node.left"}


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("build=lambda context, settings: Fails()", "build=lambda context, settings: 1 / 0"),
        ("    return lifespan()", "    raise RuntimeError('no')"),
    ],
)
def test_a_plugin_that_fails_at_the_start_ends_it_with_one_message(make_nebula, plugin_folder, good, bad):
    (plugin_folder / "nebula_lab.py").write_text(PLUGIN.replace(good, bad))
    nebula = make_nebula(python_path=plugin_folder).start(wait=False)
    assert nebula.process.wait(60) == 1
    log = nebula.log.read_text()
    assert "Traceback" not in log
    assert '"lab"' in log
    assert "[plugins] disabled" in log
    assert nebula.processes() == {}


def test_a_strategy_that_fails_costs_no_request_and_is_named_in_the_log(nebula):
    assert {nebula.chat("m").status_code for _ in range(3)} == {200}
    log = nebula.log.read_text()
    assert "this strategy is broken" in log
    assert "'fails'" in log
