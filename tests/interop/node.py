"""What the interop tests need of npm: whether Node and its packages are there."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent
INSTALL_LIMIT_S = 45.0  # within the time that one test may take


def why_not() -> str | None:
    """Why Node tests cannot run here; None once the packages are installed."""
    if shutil.which("node") is None:
        return "node is not installed"
    if _installed() == _locked("package-lock.json"):
        return None
    if shutil.which("npm") is None:
        return "packages of tests/interop are missing, and there is no npm to install them with"
    try:
        done = subprocess.run(
            ["npm", "ci"], check=False, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"`npm ci` in tests/interop did not end within {INSTALL_LIMIT_S:g}s"
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        return f"`npm ci` in tests/interop failed: {' '.join(errors[:3])}"
    return None


def _installed() -> dict[str, str]:
    return _locked("node_modules/.package-lock.json")  # the last thing npm writes


def _locked(name: str) -> dict[str, str]:
    """The versions that a lock file names, of the packages that every machine gets."""
    try:
        lock = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    packages = lock["packages"].items()
    return {path: package["version"] for path, package in packages if path and not package.get("optional")}
