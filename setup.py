"""Build aiflow_ext._core.  Everything else is in pyproject.toml."""

import os
import shlex
import subprocess
import sys
from glob import glob

from setuptools import Extension, setup

LINKED = {"libpq": "libpq-dev", "libzmq": "libzmq3-dev", "sqlite3": "libsqlite3-dev"}  # with Debian's names
LOADED = {"libmariadb": "libmariadb-dev"}  # its headers are needed here, the library when a mysql: log is opened
PACKAGES = LINKED | LOADED


def pkg_config(library: str, what: str) -> list[str]:
    try:
        out = subprocess.run(["pkg-config", what, library], capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("aiflow-ext: pkg-config is missing; on Debian: apt-get install pkg-config")
    if out.returncode != 0:
        sys.exit(f"aiflow-ext: {library} is missing; on Debian: apt-get install {PACKAGES[library]}")
    return shlex.split(out.stdout)


cflags = [flag for library in PACKAGES for flag in pkg_config(library, "--cflags")]
libs = [flag for library in LINKED for flag in pkg_config(library, "--libs")]
sanitize = os.environ.get("AIF_SANITIZE", "")  # "address,undefined"; use its own --build-lib: see the Makefile
san = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-O1"] if sanitize else []

setup(
    ext_modules=[
        Extension(
            "aiflow_ext._core",
            sources=sorted(glob("csrc/core/*/*.c") + glob("csrc/py/*.c")),
            depends=sorted(glob("csrc/**/*.[ch]", recursive=True)),
            include_dirs=["csrc/core"],
            define_macros=[("_POSIX_C_SOURCE", "200809L")],
            extra_compile_args=["-std=c11", "-fvisibility=hidden", *cflags, *san],
            extra_link_args=[*libs, "-lpthread", "-ldl", *san],
        )
    ],
    options={"build": {"build_temp": f"build/ext{'-' + sanitize.replace(',', '-') if sanitize else ''}"}},
)
