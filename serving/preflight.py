"""What can be known before the server starts: this machine, this environment, this repository."""

import ctypes
import platform
import shutil
import sys
import sysconfig
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ensembles.lint import lint
from serving import embedded
from serving.errors import ServingError

SHM = Path("/dev/shm")
SHM_BYTES = 64 << 20


@dataclass(frozen=True)
class Check:
    """One finding of `yard doctor`: what was looked at, what was found, and what mends it when it is not well."""

    subject: str
    found: str
    mend: str = ""

    @property
    def well(self) -> bool:
        """Whether nothing has to be mended."""
        return not self.mend


def machine_checks() -> Iterator[Check]:
    """Look at all that the embedded server needs of this machine and this environment."""
    yield _python()
    yield _shared_library()
    yield _numpy()
    yield _tritonserver()
    yield _shared_memory()


def require_machine() -> None:
    """Raise ServingError, with everything that has to be mended, when the embedded server cannot run here."""
    if ill := [check for check in machine_checks() if not check.well]:
        raise ServingError("\n".join(f"{check.subject}: {check.found}; {check.mend}" for check in ill))


def require_repository(repository: Path, members: Collection[str] | None = None) -> None:
    """Raise ServingError when `repository` is missing, empty, or the lint finds an error in it.

    Of a repository that is served in part only `members` count.
    """
    if not repository.is_dir() or not any(repository.glob("*/config.pbtxt")):
        raise ServingError(f"repository {repository} holds no model; run `yard repository`")
    findings = [each for each in lint(repository) if members is None or each.model in members]
    if errors := [finding for finding in findings if finding.severity == "error"]:
        lines = "\n".join(f"  {finding}" for finding in errors)
        raise ServingError(f"repository {repository} would not serve; run `yard repository`:\n{lines}")


def _python() -> Check:
    try:
        embedded.stub()
    except ServingError as error:
        return Check("python", platform.python_version(), str(error))
    return Check("python", platform.python_version())


def _shared_library() -> Check:
    name = str(sysconfig.get_config_var("INSTSONAME") or "")
    soname = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    candidates = [str(Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib") / (name or soname)), soname]
    for candidate in candidates:
        try:
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return Check("libpython", candidate)
    short = f"{sys.version_info.major}.{sys.version_info.minor}"
    mend = f"install it: apt-get install libpython{short} (Debian, Ubuntu) or dnf install python{short}-libs"
    return Check("libpython", f"{soname} is missing, and the server's Python stub needs it", mend)


def _numpy() -> Check:
    try:
        found = version("numpy")
    except PackageNotFoundError:
        return Check("numpy", "absent", "run `make setup`")
    if int(found.split(".")[0]) >= 2:
        return Check("numpy", found, "the server's stub gives empty outputs under numpy 2; run `make setup`")
    return Check("numpy", found)


def _tritonserver() -> Check:
    try:
        binary = embedded.installation() / "bin" / "tritonserver"
    except ServingError as error:
        return Check("tritonserver", "absent", str(error))
    return Check("tritonserver", f"{binary.name} of nvidia-pytriton {version('nvidia-pytriton')}")


def _shared_memory() -> Check:
    if not SHM.is_dir():
        return Check("shared memory", "no /dev/shm", "mount a tmpfs there; the server's stubs talk through it")
    free = shutil.disk_usage(SHM).free
    found = f"{free >> 20} MiB free in {SHM}"
    if free < SHM_BYTES:
        return Check("shared memory", found, f"the stubs need {SHM_BYTES >> 20} MiB; free some, or --shm-size")
    return Check("shared memory", found)
