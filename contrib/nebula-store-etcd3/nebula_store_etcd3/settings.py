"""The settings table `[store_etcd3]`: that of `nebula-store-etcd`, within the limits of the client."""

from __future__ import annotations

from nebula_store_etcd.settings import EtcdSettings
from pydantic import Field, model_validator


class Etcd3Settings(EtcdSettings):
    """`[store_etcd3]`: where etcd is, and as whom Nebula talks to it."""

    calls: int = Field(8, ge=1, le=64)
    """How many calls may run at once, each in a thread; others wait for their turn."""

    @model_validator(mode="after")
    def _suit_the_client(self) -> Etcd3Settings:
        if len(self.endpoints) > 1:
            raise ValueError("endpoints: the client etcd3 takes one address; the store etcd (nebula-store-etcd) takes several")
        if self.tls and self.ca_cert is None:
            raise ValueError("ca_cert: the client etcd3 speaks TLS only if it is given this file")
        return self
