"""A machine keeps its name in the fleet, whatever its host name becomes."""

import socket
import stat
from pathlib import Path

import pytest

from nebula_core.errors import SettingsError
from nebula_core.identity import named
from nebula_core.settings import GatewaySettings, NodeSettings, Settings


def test_the_first_start_keeps_the_host_name(tmp_path: Path) -> None:
    settings = named(Settings(data_dir=tmp_path / "data"))
    assert (settings.node_name, settings.gateway_name) == (socket.gethostname(), f"{socket.gethostname()}:8080")
    assert (tmp_path / "data" / "node.name").read_text() == socket.gethostname() + "\n"


def test_a_kept_name_outlives_a_change_of_the_host_name(tmp_path: Path) -> None:
    (tmp_path / "node.name").write_text("laptop.at-home\n")
    settings = named(Settings(data_dir=tmp_path))
    assert (settings.node_name, settings.gateway_name) == ("laptop.at-home", "laptop.at-home:8080")


def test_a_name_in_the_settings_wins(tmp_path: Path) -> None:
    (tmp_path / "node.name").write_text("kept\n")
    settings = named(Settings(data_dir=tmp_path, node=NodeSettings(name="n"), gateway=GatewaySettings(name="g")))
    assert (settings.node_name, settings.gateway_name) == ("n", "g")


def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    (tmp_path / "node.name").touch()
    assert named(Settings(data_dir=tmp_path)).node_name == socket.gethostname()
    assert [path.name for path in tmp_path.iterdir()] == ["node.name"]


def test_the_data_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    named(Settings(data_dir=tmp_path / "deep" / "data"))
    assert stat.S_IMODE((tmp_path / "deep" / "data").stat().st_mode) == 0o700


def test_a_data_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file/data/node\.name.*another data_dir"):
        named(Settings(data_dir=tmp_path / "file" / "data"))
