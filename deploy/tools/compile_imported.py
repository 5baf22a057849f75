"""Run while an image is built: writes the byte code of what a service imports, and of nothing else.

    compile_imported.py wearon_generator mediapipe.tasks.python.vision ...

Imports each module and everything below each of our packages, so that Python caches it. Images are read-only
later: what is not cached here would be compiled at each start; what is never imported needs no cache at all.
Our modules that need OpenTelemetry are left out where it is not installed, as in most images.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

sys.dont_write_bytecode = False
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    if name.startswith("wearon_"):
        for found in pkgutil.walk_packages(module.__path__, f"{name}."):
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as missing:
                if not str(missing.name).startswith("opentelemetry"):
                    raise
