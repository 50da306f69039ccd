"""Certificates: read and tried out before they are used, for gRPC itself only says that it could not shake hands."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from nebula_core import StoreError
from nebula_store_etcd.settings import EtcdSettings


def channel_credentials(settings: EtcdSettings) -> grpc.ChannelCredentials | None:
    """What the connection is encrypted with; `None` without TLS. Raises `StoreError` naming the file that cannot be used."""
    if not settings.tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if settings.ca_cert:
            context.load_verify_locations(settings.ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise StoreError(f"[store_etcd] ca_cert: {settings.ca_cert} is no readable PEM certificate: {error}") from error
    try:
        if settings.cert and settings.key:
            context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise StoreError(f"[store_etcd] cert and key: {settings.cert} and {settings.key} are no pair of PEM files: {error}") from error
    return grpc.ssl_channel_credentials(_read(settings.ca_cert), _read(settings.key), _read(settings.cert))


def _read(path: Path | None) -> bytes | None:
    return path.read_bytes() if path else None
