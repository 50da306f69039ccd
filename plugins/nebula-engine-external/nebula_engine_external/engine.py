"""`ExternalEngine`: engines that somebody else starts and stops."""

from __future__ import annotations

import os

from nebula_core import Attach, Engine, EngineAddress, InvalidModelRequest, LaunchError, ModelRequest, ReplicaSpec
from nebula_engine_external.arguments import ExternalArgs, ReplicaArgs
from nebula_engine_external.urls import base_urls


class ExternalEngine(Engine):
    """One replica for each URL; nothing is launched, each is only watched and routed to."""

    def specs(self, request: ModelRequest) -> tuple[ReplicaSpec, ...]:
        """As many replicas as there are `urls`; `request.replicas` does not count, for nothing can be started."""
        arguments = ExternalArgs.of(request)
        where = f'the model "{request.model_uid}" (engine "{request.engine}")'
        if request.source is not None:
            raise InvalidModelRequest(f"{where} has a source, but its engines have loaded theirs already; remove `source`")
        if arguments.api_key and arguments.api_key_env:
            raise InvalidModelRequest(f"{where} has both api_key and api_key_env; remove one")
        try:
            urls = base_urls(arguments.urls)
        except ValueError as error:
            raise InvalidModelRequest(f"{where} urls: {error}") from error
        common = arguments.model_dump(exclude_unset=True, exclude={"urls"})
        names = (arguments.served_name or request.model_uid,)
        return tuple(
            ReplicaSpec(model_uid=request.model_uid, engine=request.engine, served_names=names, engine_args={"url": url, **common})
            for url in urls
        )

    def scraper_for(self, spec: ReplicaSpec) -> str | None:
        """The one that the model's table names."""
        return ReplicaArgs.of(spec).scraper

    def health_path_for(self, spec: ReplicaSpec) -> str:
        """The one that the model's table names, else `/health`."""
        return ReplicaArgs.of(spec).health_path

    def check(self, spec: ReplicaSpec) -> None:
        """Raise `LaunchError` if the key is to come from a variable that this node does not have."""
        _api_key(spec)

    def launch(self, spec: ReplicaSpec, address: EngineAddress, gpu_indexes: tuple[int, ...]) -> Attach:
        """Where it runs, and its key. Raises `LaunchError` as `check` does."""
        return Attach(ReplicaArgs.of(spec).url, _api_key(spec))


def _api_key(spec: ReplicaSpec) -> str:
    arguments = ReplicaArgs.of(spec)
    if not arguments.api_key_env:
        return arguments.api_key
    key = os.environ.get(arguments.api_key_env)
    if not key:
        raise LaunchError(
            f'the model "{spec.model_uid}" takes its key from the environment variable {arguments.api_key_env}, '
            "which is not set on this node; set it where the node daemon is started"
        )
    return key
