"""The plugin loader, on real modules in a folder and real entry points to them."""

import logging
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nebula_core import plugins
from nebula_core.errors import PluginError, SettingsError
from nebula_core.provider import Context

STRATEGY = """
from nebula_core import PluginSettings, Provider, Strategy, hookimpl

class Settings(PluginSettings):
    weight: float = 1.0
    name: str = "x"

class First(Strategy):
    def __init__(self, context, settings):
        self.context, self.settings = context, settings
    def select(self, request, candidates):
        return None

@hookimpl
def nebula_register_strategies():
    return [Provider(name="first", build=First, settings_type=Settings)]
"""
Write = Callable[[str, str], EntryPoint]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a plugin's module and returns its entry point; afterwards the modules are forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def write(name: str, source: str) -> EntryPoint:
        module = f"{tmp_path.name.replace('-', '_')}_{name}"
        (tmp_path / f"{module}.py").write_text(source)
        names.append(module)
        return EntryPoint(name=name, value=module, group=plugins.GROUP)

    yield write
    for module in names:
        sys.modules.pop(module, None)


def test_a_mistake_in_a_plugins_table_does_not_show_a_secret(write: Write) -> None:
    source = STRATEGY.replace('name: str = "x"', 'name: str = "x"; password: str = ""; words: dict[str, int] = {}')
    loaded = plugins.load((), [write("first", source)])
    for table in ({"password": 20000723}, {"words": {"api_key": "20000723"[:-1] + "x"}}):
        with pytest.raises(SettingsError) as caught:
            loaded.check_tables({"first": table})
        assert "2000072" not in str(caught.value)


def context(plugin: str) -> Context:
    return Context(logger=logging.getLogger(plugin))


def refusal(*points: EntryPoint, disabled: tuple[str, ...] = ()) -> str:
    with pytest.raises(PluginError) as caught:
        plugins.load(disabled, points)
    return str(caught.value)


def way_out(name: str) -> str:
    return f'disable it with `[plugins] disabled = ["{name}"]`'


def test_a_plugin_offers_what_it_registers(write: Write) -> None:
    loaded = plugins.load(found=[write("strategy_first", STRATEGY)])
    assert loaded.names("strategy") == ["first"]
    assert [(info.name, info.enabled, info.provides) for info in loaded.infos] == [("strategy_first", True, ("strategy:first",))]


def test_a_provider_is_built_with_its_plugins_table_and_context(write: Write) -> None:
    loaded = plugins.load(found=[write("strategy_first", STRATEGY)])
    built = loaded.build("strategy", "first", "[router] strategy", {"strategy_first": {"weight": 2}}, context)
    assert built.settings.weight == 2.0
    assert built.context.logger.name == "strategy_first"


def test_plugins_load_by_name_whatever_order_they_are_found_in(write: Write) -> None:
    points = [write(name, STRATEGY.replace('"first"', f'"{name}"')) for name in ("b", "c", "a")]
    assert [info.name for info in plugins.load(found=points).infos] == ["a", "b", "c"]


def test_other_hooks_are_shown_by_name(write: Write) -> None:
    source = "from nebula_core import hookimpl\n\n@hookimpl\ndef nebula_add_cli(cli):\n    cli.called = True\n"
    (info,) = plugins.load(found=[write("greet", source)]).infos
    assert info.provides == ("nebula_add_cli",)


def test_two_providers_of_a_name_are_refused_naming_both(write: Write) -> None:
    message = refusal(write("one", STRATEGY), write("two", STRATEGY))
    assert 'the strategy "first" is provided by two plugins, "one" and "two"' in message
    assert way_out("two") in message


def test_disabling_one_of_two_clashing_plugins_resolves_it(write: Write) -> None:
    assert plugins.load(["two"], [write("one", STRATEGY), write("two", STRATEGY)]).names("strategy") == ["first"]


def test_a_disabled_plugin_is_listed_but_not_imported(write: Write) -> None:
    point = write("strategy_first", "raise RuntimeError('imported')")
    (info,) = plugins.load(["strategy_first"], [point]).infos
    assert not info.enabled
    assert "disabled" in info.note
    assert point.value not in sys.modules


def test_disabling_what_is_not_installed_is_refused(write: Write) -> None:
    message = refusal(write("strategy_first", STRATEGY), disabled=("strategy_frist",))
    assert 'disabled names "strategy_frist", which is not installed (installed: "strategy_first")' in message


@pytest.mark.parametrize("source", ["import no_such_package_at_all", "def (", "1 / 0"])
def test_a_plugin_that_fails_to_import_is_named_with_the_way_out(write: Write, source: str) -> None:
    message = refusal(write("broken", source))
    assert 'the plugin "broken" failed to load' in message
    assert way_out("broken") in message


def test_a_coroutine_hook_is_refused(write: Write) -> None:
    source = "from nebula_core import hookimpl\n\n@hookimpl\nasync def nebula_register_strategies():\n    return []\n"
    message = refusal(write("eager", source))
    assert 'the plugin "eager" implements nebula_register_strategies as a coroutine' in message
    assert way_out("eager") in message


def test_a_hook_that_does_not_exist_is_refused(write: Write) -> None:
    message = refusal(write("typo", "from nebula_core import hookimpl\n\n@hookimpl\ndef nebula_register_strategy():\n    return []\n"))
    assert "nebula_register_strategy" in message
    assert way_out("typo") in message


def test_a_hook_with_a_wrong_argument_is_refused(write: Write) -> None:
    message = refusal(write("typo", "from nebula_core import hookimpl\n\n@hookimpl\ndef nebula_add_cli(cil):\n    pass\n"))
    assert 'the plugin "typo" cannot be registered' in message
    assert "cil" in message


def test_a_hook_that_raises_is_named(write: Write) -> None:
    source = "from nebula_core import hookimpl\n\n@hookimpl\ndef nebula_register_probes():\n    raise OSError('no card')\n"
    assert 'the plugin "shaky" failed in nebula_register_probes: no card' in refusal(write("shaky", source))


def test_a_provider_for_another_plugin_interface_is_refused(write: Write) -> None:
    message = refusal(write("future", STRATEGY.replace('name="first",', 'name="first", api_version=99,')))
    assert 'the strategy "first" of the plugin "future" is made for plugin interface 99, this Nebula has 1' in message


def test_an_entry_point_must_name_a_module() -> None:
    point = EntryPoint(name="odd", value="nebula_core.plugins:load", group=plugins.GROUP)
    assert 'the entry point "odd" must name a module, not nebula_core.plugins:load' in refusal(point)


def test_an_unknown_provider_says_who_asked_and_what_is_installed(write: Write) -> None:
    loaded = plugins.load(found=[write("strategy_first", STRATEGY)])
    with pytest.raises(PluginError) as caught:
        loaded.offer("strategy", "prefix_cache", "[router] strategy")
    assert '[router] strategy asks for the strategy "prefix_cache", which is not installed (installed: first)' in str(caught.value)
    assert "pip install nebula-strategy-prefix-cache" in str(caught.value)


RETRY = """
from nebula_core import Provider, hookimpl

@hookimpl
def nebula_register_retries():
    return [Provider(name="NAME", build=lambda context, settings: None)]
"""


def test_a_choice_that_is_left_open_falls_on_the_only_one_installed(write: Write) -> None:
    assert plugins.load(found=[]).choice("retry", "", "[gateway] retry") is None
    loaded = plugins.load(found=[write("retry_one", RETRY)])
    assert loaded.choice("retry", "", "[gateway] retry") == loaded.choice("retry", "NAME", "[gateway] retry") == "NAME"


def test_of_several_a_choice_that_is_left_open_falls_on_the_preferred_one(write: Write) -> None:
    loaded = plugins.load(found=[write(name, RETRY.replace("NAME", name)) for name in ("one", "two")])
    assert loaded.choice("retry", "", "[gateway] retry", preferred="two") == "two"
    assert loaded.choice("retry", "one", "[gateway] retry", preferred="two") == "one"


def test_a_choice_that_is_wrong_or_must_be_made_says_what_is_installed(write: Write) -> None:
    loaded = plugins.load(found=[write(name, RETRY.replace("NAME", name)) for name in ("one", "two")])
    with pytest.raises(PluginError, match=r"\[gateway\] retry is empty and several are installed \(one, two\): name the one to use"):
        loaded.choice("retry", "", "[gateway] retry")
    with pytest.raises(PluginError, match=r'asks for the retry "three", which is not installed \(installed: one, two\)'):
        loaded.choice("retry", "three", "[gateway] retry")


def test_a_misspelt_key_in_a_plugins_table_is_shown_with_its_neighbours(write: Write) -> None:
    loaded = plugins.load(found=[write("strategy_first", STRATEGY)])
    with pytest.raises(SettingsError, match=r'\[strategy_first\] has no key "wieght" \(its keys: name, weight\)'):
        loaded.check_tables({"strategy_first": {"wieght": 1}})


def test_a_wrong_value_in_a_plugins_table_is_shown(write: Write) -> None:
    loaded = plugins.load(found=[write("strategy_first", STRATEGY)])
    with pytest.raises(SettingsError, match=r"\[strategy_first\] weight: .* number.*got 'heavy'"):
        loaded.check_tables({"strategy_first": {"weight": "heavy"}})


def test_a_table_that_no_plugin_owns_is_returned_for_a_warning(write: Write) -> None:
    loaded = plugins.load(["off"], [write("strategy_first", STRATEGY), write("off", STRATEGY)])
    assert loaded.check_tables({"strategy_first": {}, "off": {"anything": 1}, "strategy_prefix": {}}) == ["strategy_prefix"]


def test_a_provider_that_cannot_be_built_is_named(write: Write) -> None:
    loaded = plugins.load(found=[write("strategy_first", STRATEGY.replace("build=First", "build=lambda context, settings: 1 / 0"))])
    with pytest.raises(PluginError, match='the plugin "strategy_first" failed to build its strategy "first": division by zero'):
        loaded.build("strategy", "first", "[router] strategy", {}, context)


def test_what_is_installed_here_loads() -> None:
    assert all(info.enabled for info in plugins.load().infos)
