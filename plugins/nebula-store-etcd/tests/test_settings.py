"""Settings that cannot be right are named before anything is tried; an address where nobody answers is named after."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from nebula_store_etcd.settings import EtcdSettings

from nebula_core import Context, PluginSettings, SettingsError, StoreError, StoreUnavailable, plugins


def parsed(**table: object) -> PluginSettings:
    return plugins.parse_table(plugins.load().offer("store", "etcd", "a test"), table)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"endpoint": ["http://a:1"]}, "endpoints"),
        ({"endpoints": []}, "endpoints"),
        ({"endpoints": ["a"]}, "host:port"),
        ({"endpoints": ["http://a:2379/v3"]}, "host:port"),
        ({"endpoints": ["http://a:65536"]}, "65535"),
        ({"endpoints": ["https://a:1", "http://b:1"]}, "all members must speak TLS, or none"),
        ({"endpoints": ["http://a:1"], "ca_cert": "ca.pem"}, "https://"),
        ({"cert": "cert.pem"}, "cert and key belong together"),
        ({"user": "nebula"}, "user and password belong together"),
        ({"prefix": "nebula"}, "prefix"),
        ({"prefix": "/nebula/"}, "prefix"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_what_cannot_be_right_is_named(table: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=r"\[store_etcd\]") as caught:
        parsed(**table)
    assert told in str(caught.value)


def test_a_password_is_not_shown() -> None:
    settings = parsed(user="nebula", password="hunter2")
    assert "hunter2" not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        parsed(user="", password="hunter2")
    assert "hunter2" not in str(caught.value)


def test_an_endpoint_without_a_scheme_speaks_tls_if_there_are_certificates() -> None:
    assert not EtcdSettings(endpoints=("etcd-0:2379",)).tls
    assert EtcdSettings(endpoints=("etcd-0:2379", "https://[::1]:2379"), ca_cert=Path("ca.pem")).tls


def test_naming_the_plugin_does_not_import_grpc() -> None:
    code = "import nebula_store_etcd, sys; nebula_store_etcd.nebula_register_stores(); sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_a_store_that_is_not_open_says_so() -> None:
    store = plugins.load().build("store", "etcd", "a test", {}, lambda name: Context(logger=logging.getLogger(name)))
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("/a")


def test_another_etcd_client_may_live_in_the_same_process() -> None:
    """They register `kv.proto` and `mvccpb.KeyValue` in the default pool, where each name can stand once."""
    code = (
        "import nebula_store_etcd.messages\n"
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "for package in ('mvccpb', 'nebula.etcd'):\n"
        "    file = descriptor_pb2.FileDescriptorProto(name=f'{package}.proto', package=package, syntax='proto3')\n"
        "    file.message_type.add(name='KeyValue')\n"
        "    descriptor_pool.Default().Add(file)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_errors_at_the_start_are_store_errors() -> None:
    assert issubclass(StoreUnavailable, StoreError)
