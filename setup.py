"""Build the compiled core; everything else about the package stands in pyproject.toml.

Switches, from the environment (0 or unset: off):
    FASTIM_DEBUG=1      no optimization, C asserts and Cython bounds checks on
    FASTIM_SANITIZE=1   AddressSanitizer and UndefinedBehaviorSanitizer (see ``make sanitize``)
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CORE = Path("src/fastim/_core")


def switch(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


def compile_args() -> tuple[list[str], list[str]]:
    """Return the C compiler's and the linker's arguments for the chosen switches."""
    # Generated code has unused parameters and labels by design; our own lines are clean under the rest.
    compiler = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
    linker: list[str] = []
    if switch("FASTIM_SANITIZE"):
        sanitize = [
            "-fsanitize=address,undefined",
            "-fno-omit-frame-pointer",
            "-fno-sanitize-recover=undefined",
        ]
        return [*compiler, "-O1", "-g", *sanitize], sanitize
    if switch("FASTIM_DEBUG"):
        return [*compiler, "-O0", "-g"], linker
    return [*compiler, "-O3", "-g1", "-DCYTHON_WITHOUT_ASSERTIONS"], linker


def extensions() -> list[Extension]:
    compiler, linker = compile_args()
    return [
        Extension(
            f"fastim._core.{source.stem}",
            [str(source)],
            extra_compile_args=compiler,
            extra_link_args=linker,
        )
        for source in sorted(CORE.glob("*.pyx"))
    ]


setup(
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        include_path=["src"],
        language_level="3",
        compiler_directives={
            "boundscheck": True,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": False,
            "binding": True,
        },
    )
)
