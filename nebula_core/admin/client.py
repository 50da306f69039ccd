"""The client of the admin API, for the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import httpx

from nebula_core.admin import token as admin_token
from nebula_core.errors import AdminError
from nebula_core.settings import Settings

TIMEOUT_S = 10.0
Document = dict[str, Any]


class AdminClient:
    """Calls one Nebula's admin API. Every method may raise `AdminError`, in words for people.

    with AdminClient.from_settings(settings) as client:
        client.scale("smollm2", 2)
    """

    def __init__(self, url: str, token: str, token_file: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._token_file = token_file
        self._http = httpx.Client(
            base_url=f"{self._url}/admin/v1/",
            headers={"authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
            trust_env=False,  # a proxy of the environment is not for this
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> AdminClient:
        """For the Nebula that was started on this machine with these settings."""
        file = admin_token.path(settings.data_dir)
        return cls(url_of(settings), admin_token.read(settings.data_dir), file)

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def status(self) -> Document:
        """Everything at a glance."""
        return self._call("GET", "status")

    def models(self) -> list[Document]:
        """All models."""
        return cast("list[Document]", self._call("GET", "models")["models"])

    def model(self, model_uid: str) -> Document:
        """One model."""
        return self._call("GET", _model(model_uid))

    def load(self, model_uid: str, table: Mapping[str, Any]) -> Document:
        """Load a model or replace what is asked of it; `table` is a `[[models]]` table without `model_uid`."""
        return self._call("PUT", _model(model_uid), table)

    def scale(self, model_uid: str, replicas: int | None = None, **bounds: int | None) -> Document:
        """Change how many replicas of a model are wanted, and return the model.

        `bounds` are `min_replicas` and `max_replicas`, where `None` lifts one.
        """
        return self._call("PATCH", _model(model_uid), bounds if replicas is None else {"replicas": replicas, **bounds})

    def rollback(self, model_uid: str) -> Document:
        """Ask for what was asked of a model before its last change of arguments, and return the model."""
        return self._call("POST", f"{_model(model_uid)}/rollback")

    def unload(self, model_uid: str) -> Document:
        """Unload a model."""
        return self._call("DELETE", _model(model_uid))

    def apply(self, models: Sequence[Mapping[str, Any]]) -> Document:
        """Load or replace all these models or none; each is a `[[models]]` table."""
        return self._call("POST", "apply", {"models": list(models)})

    def nodes(self) -> list[Document]:
        """All nodes, missing ones included."""
        return cast("list[Document]", self._call("GET", "nodes")["nodes"])

    def ask_node(self, node_id: str, **changes: bool) -> Document:
        """Change what is asked of a node (`cordoned`, `drained`, `given_up`), and return the node."""
        return self._call("PATCH", f"nodes/{quote(node_id, safe='')}", changes)

    def decisions(self, request_id: str) -> Document:
        """Why a request was sent where it was sent; for the Nebula of the gateway that served it."""
        return self._call("GET", f"decisions/{quote(request_id, safe='')}")

    def plugins(self) -> list[Document]:
        """The plugins installed there."""
        return cast("list[Document]", self._call("GET", "plugins")["plugins"])

    def settings(self) -> Document:
        """The settings in force there, secrets masked."""
        return self._call("GET", "settings")

    def metrics(self) -> Document:
        """Every metric there, now."""
        return self._call("GET", "metrics/snapshot")

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Document:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.ConnectError as error:
            raise AdminError(
                f"no Nebula answers at {self._url}; start one with `nebula up`, or in a fleet this machine's "
                "role (`nebula gateway`, `scheduler` or `node`); --settings names the settings of one that runs with others"
            ) from error
        except httpx.HTTPError as error:
            raise AdminError(f"the admin API at {self._url} did not answer properly: {str(error) or type(error).__name__}") from error
        except (TypeError, ValueError) as error:
            raise AdminError(f"this cannot be sent as JSON: {error}") from error
        return self._read(answer)

    def _read(self, answer: httpx.Response) -> Document:
        try:
            document = answer.json()
            message = "" if answer.is_success else document["error"]["message"]
        except (ValueError, KeyError, TypeError) as error:
            raise AdminError(f"what answers at {self._url} is not Nebula's admin API (status {answer.status_code})") from error
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise AdminError(f"the admin API at {self._url} refused the token {self._token_of()}: is it another Nebula's?")
        if message:
            raise AdminError(message)
        return cast("Document", document)

    def _token_of(self) -> str:
        return f"in {self._token_file}" if self._token_file else "it was given"


def url_of(settings: Settings) -> str:
    """Where the admin API of these settings is reached from this machine. Raises `AdminError` if its port is left to the system."""
    host, port = settings.admin.host, settings.admin.port
    if port == 0:
        raise AdminError("[admin] port is 0, so that the system chooses the port: give it a fixed one to reach the admin API")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _model(model_uid: str) -> str:
    return f"models/{quote(model_uid, safe='')}"
