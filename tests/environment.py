"""An environment of Python packages for a test, outside the checkout.

In: a name and packages with their versions; `alone` are those that come without their dependencies. Out: the
environment's Python. It is made once, and anew where it holds other packages than these.
"""

import os
import pathlib
import shutil
import subprocess
import sys


def install(name, packages, alone=()):
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tidemill" / name
    home, stamp = cache / "venv", cache / "packages"
    python = home / "bin" / "python3"
    if python.exists() and stamp.exists() and stamp.read_text() == "\n".join([*packages, *alone]):
        return python
    shutil.rmtree(home, ignore_errors=True)
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *packages], check=True)
    if alone:
        subprocess.run([*pip, "--no-deps", *alone], check=True)
    stamp.write_text("\n".join([*packages, *alone]))
    return python
