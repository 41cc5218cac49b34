"""The download against a server of our own: good and broken archives, and nothing left behind by any failure."""

from __future__ import annotations

import http.server
import io
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_reg4rec.data import download
from recbole_reg4rec.data.download import ensure_dataset, known_datasets
from recbole_reg4rec.errors import UserError

INTER = "user_id:token\titem_id:token\ttimestamp:float\n1\t2\t3\n"
ITEM = "item_id:token\n2\n"


def packed(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


GOOD = packed({"Toy_Set.inter": INTER, "Toy_Set.item": ITEM})


class Handler(http.server.BaseHTTPRequestHandler):
    bodies: dict[str, bytes] = {}
    promised: dict[str, int | None] = {}

    def do_GET(self) -> None:
        body = self.bodies.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        size = self.promised.get(self.path, len(body))
        if size is not None:
            self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch) -> Iterator:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Own(Handler):
        bodies: dict[str, bytes] = {}
        promised: dict[str, int | None] = {}

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()

    def add(body: bytes, name: str = "Toy_Set.zip", **promised: int | None) -> str:
        Own.bodies[f"/{name}"] = body
        if "size" in promised:
            Own.promised[f"/{name}"] = promised["size"]
        return f"http://127.0.0.1:{server.server_port}/{name}"

    yield add
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(folder: Path, url: str | None = None, name: str = "toy") -> None:
    ensure_dataset(name, folder, show_progress=False, timeout=5.0, url=url)


def failure(folder: Path, url: str | None = None, name: str = "toy") -> str:
    before = tree(folder.parent.parent)
    with pytest.raises(UserError) as caught:
        fetch(folder, url, name)
    assert tree(folder.parent.parent) == before, "nothing may be left behind"
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".")
    return text


def tree(folder: Path) -> list[tuple[str, str | None]]:
    return sorted((str(p.relative_to(folder)), p.read_text() if p.is_file() else None) for p in folder.rglob("*"))


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "dataset" / "toy"


def test_a_good_archive(serve, folder, capsys):
    ensure_dataset("toy", folder, show_progress=True, url=serve(GOOD))
    assert tree(folder.parent) == [("toy", None), ("toy/toy.inter", INTER), ("toy/toy.item", ITEM)]
    assert "Downloading toy" in capsys.readouterr().err
    mask = os.umask(0)
    os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask, "others may read the folder as any other"


def test_without_content_length(serve, folder):
    fetch(folder, serve(GOOD, size=None))
    assert (folder / "toy.inter").read_text() == INTER


def test_what_exists_is_not_fetched(folder):
    folder.mkdir(parents=True)
    (folder / "toy.inter").write_text("mine")
    fetch(folder, "http://127.0.0.1:9/never-asked.zip")
    assert tree(folder) == [("toy.inter", "mine")]


def test_one_folder_level_is_taken_off_and_clutter_left_out(serve, folder):
    files = {"Toy_Set/": "", "Toy_Set/toy_set.inter": INTER, "Toy_Set/README.md": "hi", "Toy_Set/doc/more.txt": "x"}
    fetch(folder, serve(packed(files | {"__MACOSX/Toy_Set/._x": "", "Toy_Set/.DS_Store": ""})))
    assert tree(folder) == [("README.md", "hi"), ("doc", None), ("doc/more.txt", "x"), ("toy.inter", INTER)]


def test_base_names(serve, folder, tmp_path):
    fetch(folder, serve(packed({"other.inter": INTER, "other.link": "l", "otherwise.item": "o"})))
    assert [name for name, _ in tree(folder)] == ["otherwise.item", "toy.inter", "toy.link"]
    two = tmp_path / "dataset" / "two"
    fetch(two, serve(packed({"two.inter": INTER, "Toy_Set.inter": "no"})), "two")
    assert (two / "two.inter").read_text() == INTER


def test_existing_files_are_kept(serve, folder):
    folder.mkdir(parents=True)
    (folder / "toy.item").write_text("mine")
    (folder / "notes").write_text("mine too")
    fetch(folder, serve(packed({"Toy_Set.inter": INTER, "Toy_Set.item": ITEM, "sub/x.txt": "x"})))
    assert tree(folder) == [
        ("notes", "mine too"),
        ("sub", None),
        ("sub/x.txt", "x"),
        ("toy.inter", INTER),
        ("toy.item", "mine"),
    ]


def test_truncated(serve, folder):
    text = failure(folder, serve(GOOD[:-30], size=len(GOOD)))
    assert f"{len(GOOD) - 30} of {len(GOOD)} bytes" in text and "toy.inter" in text
    assert "zip" in failure(folder, serve(GOOD[:-30], size=None))


def test_not_a_zip(serve, folder):
    text = failure(folder, serve(b"<html>please log in</html>"))
    assert "no intact zip archive" in text and str(folder) in text and "toy.inter" in text


def test_a_damaged_member(serve, folder):
    body = bytearray(packed({"Toy_Set.inter": INTER * 50}))
    body[50] ^= 0xFF
    assert "Toy_Set.inter" in failure(folder, serve(bytes(body))) or "intact" in failure(folder, serve(bytes(body)))


@pytest.mark.parametrize(
    "member", ["../evil.item", "/evil.item", "x/../../evil.item", "..\\evil.item", "C:\\evil.item"]
)
def test_members_that_would_escape(serve, folder, member):
    text = failure(folder, serve(packed({"Toy_Set.inter": INTER, member: "evil"})))
    assert "evil" in text and "points out of its folder" in text


def test_an_archive_without_the_interactions(serve, folder):
    assert "a.inter, b.inter" in failure(folder, serve(packed({"a.inter": INTER, "b.inter": INTER})))
    assert "nothing" in failure(folder, serve(packed({})))


def test_two_files_of_one_name(serve, folder):
    files = {"Toy_Set.inter": INTER, "toy.item": ITEM, "Toy_Set.item": ITEM}
    assert "two files of one name" in failure(folder, serve(packed(files)))


def test_not_found(serve, folder):
    url = serve(GOOD).replace("Toy_Set", "gone")
    text = failure(folder, url)
    assert "404" in text and url in text
    for part in ("toy.inter", "toy.item", "toy.user", str(folder)):
        assert part in text


def test_connection_refused(serve, folder):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x.zip"
    text = failure(folder, url)
    assert url in text and "refused" in text and "toy.inter" in text and str(folder) in text


def test_a_silent_host(folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.zip"
        with pytest.raises(UserError, match="timed out"):
            ensure_dataset("toy", folder, show_progress=False, timeout=0.2, url=url)
    assert not folder.parent.exists()


def test_other_kinds_of_address(folder):
    assert "http://" in failure(folder, "file:///etc/hostname")


def test_unknown_name(folder):
    text = failure(folder.with_name("ML_1m"), name="ML_1m")
    assert "ML_1m/ML_1m.inter" in text and "ML_1m.item" in text and str(folder.parent) in text and "ml-1m" in text
    assert "similar" not in failure(folder.with_name("zzzzqqqq"), name="zzzzqqqq")


def test_known_names_have_an_address(serve, folder, monkeypatch):
    assert known_datasets()["amazon-beauty"].endswith("/Amazon_Beauty.zip")
    url = serve(GOOD)
    monkeypatch.setattr(download, "known_datasets", lambda: {"toy": url})
    fetch(folder)
    assert (folder / "toy.inter").read_text() == INTER


@pytest.mark.parametrize("place", ["toy", "more/toy", "."])
def test_a_file_where_a_folder_should_be(serve, tmp_path, place):
    (tmp_path / "home").mkdir()
    file = tmp_path / "home" / "dataset"
    file.write_text("a file")
    text = failure(file / place, serve(GOOD))
    assert "could not be written" in text and "data_path" in text
    assert file.read_text() == "a file"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may write everywhere")
def test_unwritable_folder(serve, folder):
    folder.parent.mkdir()
    folder.parent.chmod(0o500)
    try:
        assert "could not be written" in failure(folder, serve(GOOD))
    finally:
        folder.parent.chmod(0o700)


def test_interrupted_while_checking(serve, folder, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "testzip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(folder, serve(GOOD))
    assert not folder.parent.exists()


def test_interrupted_while_moving(serve, folder, monkeypatch):
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    replace = os.replace

    def interrupt(source, target):
        if str(target).endswith(".inter"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(download.os, "replace", interrupt)
    url = serve(packed({"Toy_Set.inter": INTER, "Toy_Set.item": ITEM, "sub/deep/x.txt": "x"}))
    with pytest.raises(KeyboardInterrupt):
        fetch(folder, url)
    assert tree(folder) == [("mine.txt", "mine")]


def test_a_full_disk(serve, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    assert "No space left on device" in failure(folder, serve(GOOD))


def test_another_process_was_faster(serve, folder, monkeypatch):
    replace = os.replace

    def slow(source, target):
        if Path(target) == folder and not folder.exists():
            folder.mkdir()
            (folder / "toy.inter").write_text("theirs")
        replace(source, target)

    monkeypatch.setattr(download.os, "replace", slow)
    fetch(folder, serve(GOOD))
    assert tree(folder) == [("toy.inter", "theirs"), ("toy.item", ITEM)]
