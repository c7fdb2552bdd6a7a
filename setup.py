"""Build aiflow_ext._core.  Everything else is in pyproject.toml."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LINKED = {"libpq": "libpq-dev", "libzmq": "libzmq3-dev", "sqlite3": "libsqlite3-dev"}  # with Debian's names
LOADED = {"libmariadb": "libmariadb-dev"}  # its headers are needed here, the library when a mysql: log is opened
PACKAGES = LINKED | LOADED


def pkg_config(what: str, *libraries: str) -> list[str]:
    out = subprocess.run(["pkg-config", what, *libraries], check=True, capture_output=True, text=True)
    return shlex.split(out.stdout)


def missing() -> dict[str, str]:
    """Return what the build needs and has not, and in which of Debian's packages it is."""
    lost = {}
    if shutil.which(shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC"))[0]) is None:
        lost["a C compiler"] = "gcc libc6-dev"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        lost["Python.h"] = "python3-dev"
    if shutil.which("pkg-config") is None:  # then nobody knows which of the libraries are there
        return lost | {"pkg-config": "pkg-config"} | PACKAGES
    for library, package in PACKAGES.items():
        if subprocess.run(["pkg-config", "--exists", library]).returncode != 0:
            lost[library] = package
    return lost


class BuildExt(build_ext):
    """Notes down what decides how the extension is built, and builds it again when that is not as it was."""

    def build_extension(self, ext: Extension) -> None:
        versions = [pkg_config("--modversion", library) for library in PACKAGES]
        how = repr((self.compiler.compiler_so, self.compiler.linker_so, versions, vars(ext)))
        note = Path(f"build/how{os.path.abspath(self.get_ext_fullpath(ext.name))}")
        if not note.exists() or note.read_text() != how:
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(how)
        ext.depends.append(str(note))
        super().build_extension(ext)


if lost := missing():
    sys.exit(f"aiflow-ext: missing: {', '.join(lost)}; on Debian: apt-get install {' '.join(lost.values())}")
sanitize = os.environ.get("AIF_SANITIZE", "")  # "address,undefined"; use its own --build-lib: see the Makefile
san = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-O1"] if sanitize else []

setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        Extension(
            "aiflow_ext._core",
            sources=sorted(glob("csrc/core/*/*.c") + glob("csrc/py/*.c")),
            depends=sorted(glob("csrc/**/*.[ch]", recursive=True)),
            include_dirs=["csrc/core"],
            define_macros=[("_POSIX_C_SOURCE", "200809L")],
            extra_compile_args=["-std=c11", "-fvisibility=hidden", *pkg_config("--cflags", *PACKAGES), *san],
            extra_link_args=[*pkg_config("--libs", *LINKED), "-lpthread", "-ldl", *san],
        )
    ],
    options={"build": {"build_temp": f"build/ext{'-' + sanitize.replace(',', '-') if sanitize else ''}"}},
)
