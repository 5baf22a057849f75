"""Where the stack finds what the repository holds, and where it keeps what it fetches and makes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[4]
"""The repository; the package is installed editable, so its files are inside."""

LOCAL_DIR: Final = ROOT / ".local"
"""Downloads and results; in .gitignore."""

SUPABASE_DIR: Final = ROOT / "deploy" / "supabase"
SAMPLES_DIR: Final = ROOT / "deploy" / "local" / "samples"
STUDIO_PAGE_DIR: Final = Path(__file__).resolve().parent / "studio" / "page"
PRODUCER_DIR: Final = Path(__file__).resolve().parent / "app" / "node"
