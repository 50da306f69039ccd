"""Runs a script on the sources of Nebula, whether compiled modules are installed or not: `python interpreted.py SCRIPT`."""

from __future__ import annotations

import runpy
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from importlib.util import find_spec

PACKAGES = ("nebula_core", "nebula_strategy_prefix")
FOLDERS = tuple(find_spec(package).submodule_search_locations[0] for package in PACKAGES)

sources = FileFinder.path_hook((SourceFileLoader, SOURCE_SUFFIXES))


def find_sources(folder: str) -> FileFinder:
    if not folder.startswith(FOLDERS):
        raise ImportError
    return sources(folder)


sys.path_hooks.insert(0, find_sources)
sys.path_importer_cache.clear()
runpy.run_path(sys.argv[1], run_name="__main__")
