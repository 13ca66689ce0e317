"""Long work in a guest: downloads that break off, stall, are too big or not what they should be."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from provisioner.adapters.files.shipped import shipped_folder

DATA = bytes(range(256)) * 8192
SUM = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("LLM_JOBS", str(tmp_path / "jobs"))
    spec = importlib.util.spec_from_file_location("guest_job", shipped_folder("playbooks") / "files/guest_job.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "jobs" / "j").mkdir(parents=True)
    return module


def result(tmp_path: Path) -> str:
    return (tmp_path / "jobs/j/result").read_text()


class Publisher:
    """Serves DATA; `ends_after` bytes it hangs up, as often as `breaks` says."""

    def __init__(self, *, ends_after: int | None = None, breaks: int = 0, knows_ranges: bool = True) -> None:
        self.ends_after, self.breaks, self.knows_ranges = ends_after, breaks, knows_ranges
        self.asked: list[str] = []
        self.url = ""
        self.wait = threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range", "")
        self.asked.append(asked)
        if handler.path == "/absent":
            handler.send_error(404)
            return
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.knows_ranges else 0
        if begin >= len(DATA):
            handler.send_error(416)
            return
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Length", str(len(DATA) - begin))
        handler.end_headers()
        if self.breaks:
            self.breaks -= 1
            handler.wfile.write(DATA[begin:][: self.ends_after])
            handler.wfile.flush()
            if handler.path == "/stuck":
                self.wait.wait(30)
            return
        handler.wfile.write(DATA[begin:])


@contextmanager
def published(publisher: Publisher) -> Iterator[Publisher]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            publisher.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        publisher.url = f"http://127.0.0.1:{server.server_port}/model.gguf"
        yield publisher
        publisher.wait.set()
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_checked_and_named_only_when_whole(job: ModuleType, tmp_path: Path) -> None:
    with published(Publisher()) as publisher:
        assert job.work("j", "10", "fetch", publisher.url, SUM, str(tmp_path / "m.gguf")) == 0
    assert (tmp_path / "m.gguf").read_bytes() == DATA
    assert result(tmp_path) == ""
    assert list(tmp_path.glob("*.part")) == []


def test_who_watches_for_a_standstill_ends_with_the_work(job: ModuleType, tmp_path: Path) -> None:
    before = threading.enumerate()
    with published(Publisher()) as publisher:
        assert job.work("j", "0.2", "fetch", publisher.url, SUM, str(tmp_path / "m.gguf")) == 0
    assert threading.enumerate() == before, "else it would end the process some time later"


def test_a_connection_that_breaks_off_costs_only_the_rest(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job.time, "sleep", lambda seconds: None)
    with published(Publisher(ends_after=2**19, breaks=3)) as publisher:
        assert job.work("j", "10", "fetch", publisher.url, SUM, str(tmp_path / "m.gguf")) == 0
    assert publisher.asked == ["", "bytes=524288-", "bytes=1048576-", "bytes=1572864-"]
    assert (tmp_path / "m.gguf").read_bytes() == DATA


def test_what_an_earlier_run_left_is_gone_on_with(job: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "m.gguf.part").write_bytes(DATA[:1000])
    with published(Publisher()) as publisher:
        assert job.work("j", "10", "fetch", publisher.url, SUM, str(tmp_path / "m.gguf")) == 0
    assert publisher.asked == ["bytes=1000-"]


def test_a_file_that_was_whole_but_not_yet_named_is_not_fetched_again(job: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "m.gguf.part").write_bytes(DATA)
    with published(Publisher()) as publisher:
        assert job.work("j", "10", "fetch", publisher.url, SUM, str(tmp_path / "m.gguf")) == 0
    assert (tmp_path / "m.gguf").read_bytes() == DATA


def test_a_server_without_ranges_begins_anew(job: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "m.gguf.part").write_bytes(b"other")
    with published(Publisher(knows_ranges=False)) as publisher:
        assert job.work("j", "10", "fetch", publisher.url, SUM, str(tmp_path / "m.gguf")) == 0
    assert (tmp_path / "m.gguf").read_bytes() == DATA


def test_a_wrong_file_is_named_with_both_sums_and_not_kept(job: ModuleType, tmp_path: Path) -> None:
    with published(Publisher()) as publisher:
        assert job.work("j", "10", "fetch", publisher.url, "0" * 64, str(tmp_path / "m.gguf")) == 1
    assert result(tmp_path) == f"wrong checksum: {publisher.url} has {SUM}, pinned is {'0' * 64}"
    assert list(tmp_path.glob("m.gguf*")) == []


def test_a_file_that_is_not_there_is_said_at_once(job: ModuleType, tmp_path: Path) -> None:
    with published(Publisher()) as publisher:
        address = publisher.url.replace("model.gguf", "absent")
        assert job.work("j", "10", "fetch", address, SUM, str(tmp_path / "m.gguf")) == 1
    assert result(tmp_path) == f"{address} answers 404 Not Found"
    assert len(publisher.asked) == 1


def test_a_disk_without_room_is_seen_before_anything_is_written(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(2**40, 2**40 - 2**20, 2**20)
    monkeypatch.setattr(job.shutil, "disk_usage", lambda path: usage)
    with published(Publisher()) as publisher:
        assert job.work("j", "10", "fetch", publisher.url, SUM, str(tmp_path / "m.gguf")) == 1
    assert "needs 2.0 MiB more and 256.0 MiB to spare, 1.0 MiB are free" in result(tmp_path)
    assert not (tmp_path / "m.gguf.part").exists()


def test_a_disk_that_fills_up_on_the_way_is_said(job: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "m.gguf.part").symlink_to("/dev/full")
    with published(Publisher()) as publisher:
        assert job.work("j", "10", "fetch", publisher.url, SUM, str(tmp_path / "m.gguf")) == 1
    assert result(tmp_path) == f"the disk is full: {tmp_path}/m.gguf.part"
    assert len(publisher.asked) == 1


def test_the_last_words_of_a_program_are_the_reason_of_its_failure(job: ModuleType, tmp_path: Path) -> None:
    progress = job.Progress(tmp_path, 10)
    with pytest.raises(job.Failed, match=r"sh failed \(3\): one \| two"):
        job.run(progress, ["sh", "-c", "echo one >&2; echo two >&2; exit 3"])
    assert job.run(progress, ["sh", "-c", "echo out; echo said >&2"]) == "out\n"


def test_nobody_listens(job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job.time, "sleep", lambda seconds: None)
    assert job.work("j", "10", "fetch", "http://127.0.0.1:9/m", SUM, str(tmp_path / "m.gguf")) == 1
    assert "cannot fetch http://127.0.0.1:9/m" in result(tmp_path)
    assert "refused" in result(tmp_path)


def test_time_alone_ends_nothing_and_standing_still_does(job: ModuleType, tmp_path: Path) -> None:
    now = [0.0]
    job.time = type("Time", (), {"monotonic": staticmethod(lambda: now[0])})
    progress = job.Progress(tmp_path, 60)
    for step in range(100):
        now[0] += 59
        progress.at(step)
        assert progress.stalled() == ""
    now[0] += 59
    progress.at(99)
    assert progress.stalled() == ""
    now[0] += 1
    assert progress.stalled() == "nothing has moved for 60 s; last: 99 bytes"


def test_secrets_come_out_of_a_private_file_as_they_went_in(job: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "ml.env").write_text('HF_TOKEN="a \\"b\\" $c"\n')
    assert job.read_env(tmp_path / "ml.env") == {"HF_TOKEN": 'a "b" $c'}
    assert job.read_env(tmp_path / "none") == {}


LLAMA = {
    "config.json": 1,
    "model-00001-of-00002.safetensors": 10,
    "model-00002-of-00002.safetensors": 10,
    "original/consolidated.00.pth": 20,
    "original/params.json": 1,
    "tokenizer.json": 2,
}


@pytest.mark.parametrize(
    ("there", "left_out"),
    [
        (LLAMA, {"original/consolidated.00.pth", "original/params.json"}),
        (["model.safetensors", "pytorch_model.bin", "tf_model.h5"], {"pytorch_model.bin", "tf_model.h5"}),
        (["model.safetensors", "onnx/model.onnx", "1_Dense/pytorch_model.bin"], set()),
        (["pytorch_model.bin", "original/a.pth", "sparse_linear.pt"], set()),
        (["model.safetensors", "sparse_linear.pt", "tokenizer.model"], set()),
    ],
)
def test_weights_in_a_second_format_are_left_out_where_safetensors_lie_beside_them(
    job: ModuleType, there: list[str], left_out: set[str]
) -> None:
    assert set(there) - set(job.read_by_engines(there)) == left_out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str | None]]]:
    """Hugging Face with one repository; what it was asked, and by whom."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            siblings = [{"rfilename": name, "size": size} for name, size in LLAMA.items()]
            body = json.dumps({"siblings": siblings}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()
        thread.join()


def ran_by(job: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the commands that a job will run, instead of running them."""
    commands: list[list[str]] = []
    monkeypatch.setattr(job, "run", lambda progress, command, *_, **__: commands.append(command))
    return commands


def test_of_a_repository_only_what_engines_read_is_fetched(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[tuple[str, str | None]]
) -> None:
    commands = ran_by(job, monkeypatch)
    (tmp_path / "ml.env").write_text('HF_TOKEN="hf_right"\n')
    job.huggingface(
        job.Progress(tmp_path, 10), "/opt/v", "vllm", str(tmp_path), str(tmp_path / "ml.env"), "org/a@refs/pr/1"
    )
    assert hub == [("/api/models/org/a/revision/refs%2Fpr%2F1?blobs=true", "Bearer hf_right")]
    (command,) = commands
    fetched = command[command.index("org/a") + 1 : command.index("--revision")]
    assert fetched == [name for name in LLAMA if not name.startswith("original/")]


@pytest.mark.parametrize("kind", ["huggingface", "weights"])
def test_a_disk_without_room_for_a_repository_is_seen_before_it_comes(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[tuple[str, str | None]], kind: str
) -> None:
    commands = ran_by(job, monkeypatch)
    usage = namedtuple("usage", "total used free")(2**40, 2**40 - 2**28 - 22, 2**28 + 22)
    monkeypatch.setattr(job.shutil, "disk_usage", lambda path: usage)
    words = {
        "huggingface": ("/opt/v", "vllm", str(tmp_path), "/none", "org/a"),
        "weights": ("image", "1:1", str(tmp_path), "/none", str(tmp_path / "mark"), "org/a"),
    }
    with pytest.raises(job.Failed, match=r"no room for org/a: it needs 23 bytes more"):
        getattr(job, kind)(job.Progress(tmp_path, 10), *words[kind])
    assert commands == []


def told_size(job: ModuleType, capsys: pytest.CaptureFixture[str], *models: list[str]) -> int:
    assert job.tell_size(json.dumps(models)) == 0
    return int(capsys.readouterr().out)


def test_how_much_is_to_come_is_told_before_it_comes(
    job: ModuleType, tmp_path: Path, hub: list[tuple[str, str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    part, file, mark = tmp_path / "m.part", tmp_path / "m.gguf", tmp_path / "mark"
    (tmp_path / "ml.env").write_text('HF_TOKEN="hf_right"\n')
    with published(Publisher()) as publisher:
        remote = ["file", publisher.url, str(part), str(file)]
        local = ["file", str(10**12), str(part), str(file)]
        repository = ["repository", str(tmp_path), str(tmp_path / "ml.env"), str(mark), "org/a"]
        assert told_size(job, capsys) == 0
        assert told_size(job, capsys, remote, local, repository) == len(DATA) + 10**12 + 23
        assert hub[-1][1] == "Bearer hf_right"
        # Of what has come already only the rest is to come.
        part.write_bytes(DATA[:1000])
        blobs = job.blobs_of(str(tmp_path), "org/a")
        blobs.mkdir(parents=True)
        (blobs / "sum.incomplete").write_bytes(b"x" * 20)
        assert told_size(job, capsys, remote, repository) == len(DATA) - 1000 + 3
        file.touch()
        mark.touch()
        assert told_size(job, capsys, remote, local, repository) == 0


@pytest.mark.parametrize(
    "model", [["file", "http://127.0.0.1:9/m", "/none", "/none"], ["repository", "/none", "/none", "/none", "org/a"]]
)
def test_a_size_that_nobody_tells_is_no_size(
    job: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: list[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert job.tell_size(json.dumps([model])) == 1
    told = capsys.readouterr()
    assert (told.out, told.err != "") == ("", True)


def test_a_repository_of_which_nobody_tells_is_left_to_the_client(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = ran_by(job, monkeypatch)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    job.huggingface(job.Progress(tmp_path, 10), "/opt/v", "vllm", str(tmp_path), "/none", "org/a")
    assert [command[-3:] for command in commands] == [["/opt/v/bin/hf", "download", "org/a"]]


def test_of_a_tokenizer_no_weights_come(
    job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: list[tuple[str, str | None]]
) -> None:
    commands = ran_by(job, monkeypatch)
    job.huggingface(job.Progress(tmp_path, 10), "/opt/v", "vllm", str(tmp_path), "/none", "org/a@v1#tokenizer")
    assert hub[0][0].startswith("/api/models/org/a/revision/v1?")
    (command,) = commands
    assert command[-5:] == ["org/a", "config.json", "tokenizer.json", "--revision", "v1"]
    assert (tmp_path / "pulled/org--a@v1#tokenizer").exists()
    # Where nobody tells what else there is, the client would fetch everything.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(job.Failed, match=r"cannot fetch the tokenizer of org/a: http://127.0.0.1:9/.*refused"):
        job.huggingface(job.Progress(tmp_path, 10), "/opt/v", "vllm", str(tmp_path), "/none", "org/a#tokenizer")
    assert len(commands) == 1
