"""What this machine is called in the fleet: by its settings, else by a name that is chosen once and kept.

A host name is no identity. DHCP gives another one with the next network and a container with the next start, while plans, engines and
seeds in the store go on under the old one. So the first start notes it in the data folder, which belongs to one machine.
"""

from __future__ import annotations

import socket
from pathlib import Path

from nebula_core import files
from nebula_core.errors import SettingsError
from nebula_core.settings import Settings

FILE = "node.name"


def named(settings: Settings) -> Settings:
    """`settings` with the names of this node and this gateway filled in where they are empty.

    Makes the data folder, for its owner alone. Raises `SettingsError` if the name can be neither read nor written there.
    """
    name = _kept(settings.data_dir / FILE)
    node = settings.node.model_copy(update={"name": settings.node.name or name})
    gateway = settings.gateway.model_copy(update={"name": settings.gateway.name or f"{name}:{settings.gateway.port}"})
    return settings.model_copy(update={"node": node, "gateway": gateway})


def _kept(file: Path) -> str:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return (file.read_text(encoding="utf-8").strip() if file.exists() else "") or _keep(file, socket.gethostname())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"this machine's name cannot be kept in {file}: {error}; mend it, or set another data_dir") from error


def _keep(file: Path, name: str) -> str:
    files.replace(file, f"{name}\n".encode())
    return name
