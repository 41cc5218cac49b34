"""Fetching a data set that RecBole knows: nothing half-written stays behind, nothing that exists is overwritten.

RecBole's own download ends in a collective call without a process group, checks nothing and leaves a broken folder
behind when it is interrupted; only its list of addresses (``properties/dataset/url.yaml``) is used.
"""

from __future__ import annotations

import difflib
import errno
import http.client
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import yaml
from tqdm import tqdm

from recbole_reg4rec.errors import UserError

_CHUNK_BYTES = 1 << 18


def ensure_dataset(
    name: str, data_path: Path, *, show_progress: bool = True, timeout: float = 20.0, url: str | None = None
) -> None:
    """Make sure that ``<data_path>/<name>.inter`` exists; download the data set where RecBole knows it.

    Args:
        name: of the data set.
        data_path: its folder; made where it does not exist, with its parents.
        show_progress: draw a progress bar in bytes.
        timeout: seconds to wait for the host to connect, and for each piece of data.
        url: of a zip archive to use instead of RecBole's own address.

    Raises:
        UserError: the name is unknown, the host cannot be reached, the archive is broken, incomplete, unsafe or holds
            no interactions, or the folder cannot be written. The folder is then as it was before.
    """
    data_path = Path(os.path.realpath(data_path))
    if (data_path / f"{name}.inter").is_file():
        return
    address = url or _known_address(name, data_path)
    if urlsplit(address).scheme not in ("http", "https"):
        raise UserError(f"The address {address!r} of the data set {name!r} must start with http:// or https://.")
    by_hand = f"put {name}.inter, and {name}.item and {name}.user if there are any, into the folder {data_path} by hand"
    try:
        if data_path.exists() and not data_path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file, not a folder")
        with _working_folder(data_path) as work:
            archive, unpacked = work / "archive.zip", work / "unpacked"
            _fetch(name, address, archive, show_progress, timeout, by_hand)
            unpacked.mkdir()
            _unpack(name, address, archive, unpacked, by_hand)
            _publish(unpacked, data_path, f"{name}.inter")
    except OSError as error:
        raise UserError(
            f"The data set {name!r} could not be written to {data_path} ({error.strerror or error}); make that folder "
            "writable, free some space, or choose another place by the setting data_path."
        ) from error


def known_datasets() -> dict[str, str]:
    """From name to address of every data set that the installed RecBole can download."""
    text = (resources.files("recbole") / "properties" / "dataset" / "url.yaml").read_text(encoding="utf-8")
    return {str(name): str(address) for name, address in yaml.safe_load(text).items()}


def _known_address(name: str, data_path: Path) -> str:
    known = known_datasets()
    if name in known:
        return known[name]
    likely = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=3, cutoff=0.6)
    hint = f"; data sets with a similar name that can be downloaded are {', '.join(likely)}" if likely else ""
    raise UserError(
        f"The data set {name!r} was not found in the folder {data_path} and is none that RecBole can download; "
        f"put {name}/{name}.inter (needed), {name}/{name}.item and {name}/{name}.user (optional) into the folder "
        f"{data_path.parent} or name another by data_path{hint}."
    )


@contextmanager
def _working_folder(data_path: Path) -> Iterator[Path]:
    """A folder on the file system of ``data_path``; it, and every folder made for it, is gone after a failure."""
    home = data_path if data_path.is_dir() else data_path.parent
    made = [folder for folder in (home, *home.parents) if not folder.exists()]
    work: str | None = None
    done = False
    try:
        home.mkdir(parents=True, exist_ok=True)
        work = tempfile.mkdtemp(prefix=".download-", dir=home)
        yield Path(work)
        done = True
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        for folder in () if done else made:
            with suppress(OSError):  # never made, or in use by somebody else by now
                folder.rmdir()


def _fetch(name: str, address: str, archive: Path, show_progress: bool, timeout: float, by_hand: str) -> None:
    """Download to a file. Errors of the network become UserError, errors of the disk stay OSError."""

    def failed(reason: str) -> UserError:
        return UserError(
            f"The data set {name!r} could not be downloaded from {address} ({reason}); try again later or {by_hand}."
        )

    request = urllib.request.Request(address, headers={"User-Agent": "recbole-reg4rec"})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise failed(f"the host answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise failed(f"the host cannot be reached: {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise failed(f"the host cannot be reached: {error or type(error).__name__}") from error

    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() else None
    received = 0
    with (
        response,
        open(archive, "wb") as file,
        tqdm(
            total=size,
            desc=f"Downloading {name}",
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=not show_progress,
        ) as bar,
    ):
        while True:
            try:
                chunk = response.read(_CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise failed(f"it broke off after {received} bytes: {error or type(error).__name__}") from error
            if not chunk:
                break
            file.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))
    if size is not None and received != size:
        raise failed(f"it broke off after {received} of {size} bytes")


def _unpack(name: str, address: str, archive: Path, folder: Path, by_hand: str) -> None:
    """Unpack into a folder, without the archive's own top folder and with its base name replaced by ``name``."""

    def refused(what: str) -> UserError:
        return UserError(f"The archive of the data set {name!r} from {address} {what}; {by_hand}.")

    try:
        with zipfile.ZipFile(archive) as source:
            broken = source.testzip()
            if broken is not None:
                raise refused(f"is damaged at its member {broken!r}")
            members = [member for member in source.infolist() if not member.is_dir()]
            unsafe = [member.filename for member in members if _escapes(member.filename)]
            if unsafe:
                raise refused(f"holds the path {unsafe[0]!r}, which points out of its folder, and was not unpacked")
            members = [member for member in members if not _is_clutter(member.filename)]
            targets = _targets([member.filename for member in members], name, address)
            if f"{name}.inter" not in targets:
                found = ", ".join(sorted(member.filename for member in members)[:8]) or "nothing"
                raise refused(f"holds no interactions of that name but {found}")
            if len({target.lower() for target in targets}) < len(targets):
                raise refused("holds two files of one name")
            for member, target in zip(members, targets, strict=True):
                path = folder.joinpath(*PurePosixPath(target).parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(member) as packed, open(path, "wb") as file:
                    shutil.copyfileobj(packed, file, _CHUNK_BYTES)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise refused(f"is no intact zip archive ({error})") from error


def _escapes(member: str) -> bool:
    path = PurePosixPath(member.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", member) is not None


def _is_clutter(member: str) -> bool:
    """Files that file managers add to archives."""
    path = PurePosixPath(member)
    return "__MACOSX" in path.parts or path.name.startswith("._") or path.name in (".DS_Store", "Thumbs.db")


def _targets(members: list[str], name: str, address: str) -> list[str]:
    """Where each member goes: one common top folder taken off, the base name of the atomic files replaced."""
    paths = [PurePosixPath(member.replace("\\", "/")) for member in members]
    if len({path.parts[0] for path in paths}) == 1 and all(len(path.parts) > 1 for path in paths):
        paths = [PurePosixPath(*path.parts[1:]) for path in paths]
    stems = [path.stem for path in paths if path.suffix == ".inter" and len(path.parts) == 1]
    if name in stems:
        return [str(path) for path in paths]
    base = PurePosixPath(unquote(urlsplit(address).path)).stem
    likely = [stem for stem in stems if stem.lower() == base.lower()]
    # A single file of interactions is the data set's, whatever it is called.
    old = likely[0] if likely else stems[0] if len(stems) == 1 else None
    if old is None:
        return [str(path) for path in paths]
    return [
        name + path.name[len(old) :] if len(path.parts) == 1 and path.name.startswith(old + ".") else str(path)
        for path in paths
    ]


def _publish(unpacked: Path, data_path: Path, last: str) -> None:
    """Move the unpacked files to their place; files that exist there are kept. All or nothing."""
    if not data_path.exists():
        try:
            os.replace(unpacked, data_path)
            return
        except OSError as error:  # another process may have been faster
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    moved: list[Path] = []
    made: list[Path] = []
    # The interactions come last: where they are, everything is.
    files = sorted((path for path in unpacked.rglob("*") if path.is_file()), key=lambda path: path.name == last)
    try:
        for file in files:
            target = data_path / file.relative_to(unpacked)
            if target.exists():
                continue
            for folder in reversed([folder for folder in target.parents if not folder.exists()]):
                made.append(folder)
                folder.mkdir(exist_ok=True)
            moved.append(target)
            os.replace(file, target)
    except BaseException:
        for target in moved:
            target.unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise
