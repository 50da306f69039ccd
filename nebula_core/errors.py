"""Every error that Nebula raises on purpose, in one tree.

    NebulaError
    ├── SettingsError            a settings file, table or key is missing or wrong
    ├── PluginError              a plugin is missing, broken or registered twice
    ├── InvalidModelRequest      a model request that cannot be accepted as it stands
    ├── UnknownModel             a model that nobody has asked for
    ├── InvalidNodeRequest       what cannot be asked of a node as it stands
    ├── UnknownNode              a node that is neither heard of nor named by a plan
    ├── WriteConflict            somebody else kept changing what was to be written
    ├── LaunchError              an engine could not be started
    ├── ScrapeError              an engine's metrics could not be read
    ├── AdminError               the admin API refused a call, or could not be reached
    └── StoreError
        ├── StoreLocked          another process holds the embedded store
        ├── StoreUnavailable     the store does not answer now; try again
        ├── LeaseLost            the lease is gone: what was written under it is deleted
        └── Compacted            the revision asked for is no longer kept; list again

A message names the thing, the place and the way out. Errors of other libraries are translated once, at the border, with `from`.
What a client of the public port sees is in `gateway/data_path/errors.py`: those are answers, not exceptions.
"""

from __future__ import annotations


class NebulaError(Exception):
    """Base of all errors that are told to people without a traceback."""


class SettingsError(NebulaError):
    """Settings that cannot be used: names the file, the table and the key."""


class PluginError(NebulaError):
    """A plugin that is missing, fails to load, or clashes with another."""


class InvalidModelRequest(NebulaError):
    """A model request that cannot be accepted: names the model, the key and what is allowed."""


class UnknownModel(NebulaError):
    """There is no request for this model: names the ones that are known."""


class InvalidNodeRequest(NebulaError):
    """What cannot be asked of a node: names the node, and what is possible."""


class UnknownNode(NebulaError):
    """No node of this name is heard of, and no plan names it: lists the ones that are known."""


class WriteConflict(NebulaError):
    """Others changed the same keys each time this was tried; nothing was written."""


class LaunchError(NebulaError):
    """An engine that could not be started: carries its last log lines where there are any."""


class ScrapeError(NebulaError):
    """A metrics page that is missing, too large, late or not what the engine promises."""


class AdminError(NebulaError):
    """The admin API refused a call or could not be reached."""


class StoreError(NebulaError):
    """Base of the store's errors."""


class StoreLocked(StoreError):
    """The embedded store serves one process; another one holds it."""


class StoreUnavailable(StoreError):
    """The store does not answer at the moment. Nothing is known about an unfinished write."""


class LeaseLost(StoreError):
    """The lease has ended; keys written under it are gone."""


class Compacted(StoreError):
    """The revision to watch from is older than what the store keeps; list again and watch from there."""
