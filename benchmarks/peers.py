"""Peers: what raypacs is measured beside, installed by `python -m benchmarks peers install`.

Orthanc comes from Debian 13 (trixie) in a debootstrapped folder `.peers/trixie` below the project,
run through chroot (needs root); wrk is Debian's package on this machine. Installing does nothing
where the peer is there already. The Debian mirror is the one this machine's apt uses, or
`RAYPACS_DEBIAN_MIRROR`.

How to ask Orthanc 1.12.7 (DICOMweb plugin 1.20) for frames, tried on a 512 x 512 x 16 bit CT:

- Frames as stored: `Accept: multipart/related; type="application/octet-stream"; transfer-syntax=*`
  (`orthanc.FRAMES_AS_STORED`) on `/dicom-web/studies/../series/../instances/../frames/1`.
- Frames as native pixels: the same without `transfer-syntax` (`orthanc.FRAMES_NATIVE`). It costs
  Orthanc about twice as much, so a fair raw figure asks both and takes the better.
- Single part (`Accept: application/octet-stream`) is refused with 400.
- HTJ2K (1.2.840.10008.1.2.4.201 to .203) is not known to this version: it stores such instances and
  gives the whole instance back (`type="application/dicom"; transfer-syntax=*`), but every
  `/frames/` of them is answered 500 "Unknown transfer syntax", whatever the Accept header. So the
  HTJ2K figure gives both servers the SAME instances as received (native) and the SAME header
  (`FRAMES_AS_STORED`): Orthanc answers with what it keeps (native), raypacs with what it keeps
  (HTJ2K).
- Outside DICOMweb, Orthanc's own REST API gives the bytes of a stored frame, HTJ2K too, much
  faster: `/instances/{orthanc-id}/frames/0/raw`. A figure without target stands beside ours for it,
  because a user may pick that instead.
- `/bulk/7fe00010` answers without length and closes the connection: not for wrk.

Beware of the machine: run the peer and raypacs in turns, never at once, and let raypacs write below
:func:`scratch`, on the same file system.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figure import MissingPeer

PEERS_DIR = Path(__file__).resolve().parent.parent / ".peers"
TRIXIE = PEERS_DIR / "trixie"
_DONE = "debootstrap-finished"  # marker beside TRIXIE: an interrupted debootstrap starts again
_NO_SERVICES = "#!/bin/sh\n# A package's scripts start no service in here.\nexit 101\n"


class InstallFailed(RuntimeError):
    """A peer could not be installed; says which command failed and how."""


@dataclass(frozen=True)
class Peer:
    """A peer: ``version()`` is '' while it is not installed; ``install()`` puts it there."""

    name: str
    description: str
    version: Callable[[], str]
    install: Callable[[], None]


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Give a new folder on the file system that Orthanc's storage is on; remove it after.

    The system's temporary folder may be memory, where durable writes cost nothing: a raypacs
    that wrote there would not be measured beside a peer on a disk.
    """
    base = PEERS_DIR / "scratch"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}-", dir=base) as folder:
        yield Path(folder)


def require(name: str) -> str:
    """Return the version of an installed peer.

    Raises:
        MissingPeer: not installed; the message names the command that installs it.
    """
    version = PEERS[name].version()
    if not version:
        raise MissingPeer(name)
    return version


def install(name: str) -> str:
    """Install a peer unless it is there, and return its version.

    Raises:
        InstallFailed: a command failed, or root or a mirror is missing.
    """
    peer = PEERS[name]
    if not peer.version():
        peer.install()
    version = peer.version()
    if not version:
        raise InstallFailed("installed, but its version cannot be read")
    return version


def _wrk_version() -> str:
    return _first_match(["wrk", "--version"], r"wrk (?:debian/)?(\S+)", ok_codes=(0, 1))


def _orthanc_version() -> str:
    """Return the upstream version that dpkg in TRIXIE reports for Orthanc; '' if incomplete."""
    if not (TRIXIE / "usr/share/orthanc/plugins/libOrthancDicomWeb.so").is_symlink():
        return ""
    return _trixie_version("orthanc")


def _openjph_version() -> str:
    return _trixie_version("openjph-tools")


def _trixie_version(package: str) -> str:
    """Return the upstream version of a package that dpkg in TRIXIE reports; '' if not there."""
    try:
        status = (TRIXIE / "var/lib/dpkg/status").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    entry = re.search(
        rf"^Package: {package}\nStatus: install ok installed$.*?^Version: ([^\s+-]+)",
        status,
        re.MULTILINE | re.DOTALL,
    )
    return entry[1] if entry else ""


def _install_wrk() -> None:
    _need_root()
    _call(["apt-get", "update"])
    _call(["apt-get", "install", "--yes", "--no-install-recommends", "wrk"])


def _install_orthanc() -> None:
    _install_in_trixie(*_ORTHANC_PACKAGES)


def _install_openjph() -> None:
    _install_in_trixie("openjph-tools")


def _install_in_trixie(*packages: str) -> None:
    _need_root()
    _debootstrap()
    _inside(["apt-get", "update"])
    _inside(["apt-get", "install", "--yes", "--no-install-recommends", *packages])
    _inside(["apt-get", "clean"])


_DEBIAN_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEBOOTSTRAP = ("debootstrap", "debian-archive-keyring")
_ORTHANC_PACKAGES = ("orthanc", "orthanc-dicomweb")


def _debootstrap() -> None:
    """Make TRIXIE, a minimal Debian 13, unless it is complete."""
    policy = TRIXIE / "usr/sbin/policy-rc.d"
    done = PEERS_DIR / _DONE
    if not (done.exists() and (TRIXIE / "usr/bin/apt-get").exists()):
        mirror = _mirror()
        if shutil.which("debootstrap") is None or not _DEBIAN_KEYS.exists():
            _call(["apt-get", "update"])
            _call(["apt-get", "install", "--yes", "--no-install-recommends", *_DEBOOTSTRAP])
        PEERS_DIR.mkdir(exist_ok=True)
        if TRIXIE.exists():
            shutil.rmtree(TRIXIE)  # nothing is ever mounted in there
        _call(["debootstrap", "--variant=minbase", "trixie", str(TRIXIE), mirror])
        done.touch()
    policy.write_text(_NO_SERVICES)
    policy.chmod(0o755)


def _mirror() -> str:
    """Return the Debian mirror of this machine's apt, or RAYPACS_DEBIAN_MIRROR.

    Raises:
        InstallFailed: this machine's apt has no Debian mirror and none was given.
    """
    given = os.environ.get("RAYPACS_DEBIAN_MIRROR", "")
    if given:
        return given
    shown = _call(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages"]
    )
    for line in shown.splitlines():
        uri, _, origin = line.partition(" ")
        if origin == "Debian" and "security" not in uri:
            return uri
    raise InstallFailed(
        "apt on this machine has no Debian mirror: run `apt-get update`, or set "
        "RAYPACS_DEBIAN_MIRROR to the URL of one"
    )


def _need_root() -> None:
    if os.geteuid() != 0:
        raise InstallFailed("needs root: debootstrap, chroot and apt-get do")


def _inside(command: Sequence[str]) -> str:
    return _call(["chroot", str(TRIXIE), *command])


def _call(command: Sequence[str]) -> str:
    """Run ``command``; its output is kept for the error text.

    Raises:
        InstallFailed: it cannot be started or ends with another code than 0.
    """
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    environment["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=1800
        )
    except FileNotFoundError as exc:
        raise InstallFailed(
            f"{command[0]} is not there (Debian and its derivatives have it)"
        ) from exc
    except subprocess.CalledProcessError as exc:
        tail = "\n".join((exc.stdout + exc.stderr).strip().splitlines()[-8:])
        raise InstallFailed(f"`{' '.join(command)}` ended with {exc.returncode}:\n{tail}") from exc
    except subprocess.TimeoutExpired as exc:
        raise InstallFailed(f"`{' '.join(command)}` took longer than {exc.timeout:g} s") from exc
    return done.stdout


def _first_match(command: list[str], pattern: str, *, ok_codes: tuple[int, ...] = (0,)) -> str:
    """Return the first group of ``pattern`` in what ``command`` prints, '' if it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return ""
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found and done.returncode in ok_codes else ""


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "orthanc",
            "Orthanc with its DICOMweb plugin, from Debian 13 in .peers/trixie",
            _orthanc_version,
            _install_orthanc,
        ),
        Peer(
            "openjph",
            "OpenJPH's ojph_expand from Debian 13, which decodes more than 16 bits",
            _openjph_version,
            _install_openjph,
        ),
        Peer("wrk", "wrk, the HTTP load generator, Debian package", _wrk_version, _install_wrk),
    )
}
