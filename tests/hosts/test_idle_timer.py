"""The idle timer on a booted guest: real Ansible, SSH and systemd; it comes, it shuts the guest down, it goes again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping

import pytest

from provisioner.planning.guest_use import guest_signals, use_command
from tests.booted_guest import BootedGuest, why_not
from tests.booted_guest.guest import wait_for

pytestmark = [pytest.mark.timeout(600), pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]

BASE: Mapping[str, object] = {
    # The tests log in from the guest itself.
    "guest_base_allowed_networks": ["10.99.61.0/24", "127.0.0.0/8"],
    "guest_base_ports": [8080],
    "guest_base_upgrades": False,
}
OFF = {"guest_base_off_seconds": 600, "guest_base_engine_urls": ["http://127.0.0.1:8080/metrics"]}
FILES = "/etc/provisioner/idle_timer.py /etc/systemd/system/provisioner-idle.service"
# systemd starts nothing five times in ten seconds, unless it is told to forget.
LOOK = "systemctl reset-failed provisioner-idle.service; systemctl start provisioner-idle.service"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedGuest]:
    with BootedGuest(tmp_path_factory.mktemp("guest")) as guest:
        if guest.run("command -v nft", check=False).returncode != 0:
            pytest.skip("the lab's guest image has no nftables")
        yield guest


def test_the_play_lays_the_timer_down_and_a_second_run_changes_nothing(guest: BootedGuest) -> None:
    first = guest.play("configure-guest-base", {**BASE, **OFF})
    assert first.code == 0, first.text
    assert guest.run("systemctl is-active provisioner-idle.timer").stdout == "active\n"
    assert guest.run("systemctl is-enabled provisioner-idle.timer").stdout == "enabled\n"
    second = guest.play("configure-guest-base", {**BASE, **OFF})
    assert (second.code, second.changed) == (0, 0), second.text


def test_a_look_of_the_real_tools_finds_nobody(guest: BootedGuest) -> None:
    guest.run("rm -f /run/provisioner/idle-timer.json")
    guest.run(LOOK)
    state = guest.run("cat /run/provisioner/idle-timer.json").stdout
    assert '"since": null' not in state, guest.run("journalctl -u provisioner-idle -n 20").stdout
    told = guest.run(f"{quoted(use_command())}").stdout
    signals = guest_signals(told, user="ops", has_gpus=False)
    assert [(each.source, each.evidence.value, each.reason) for each in signals if each.evidence.value != "quiet"] == []
    guest.run("test -e /run/provisioner/looked-at")


def test_a_held_package_database_and_a_job_are_seen_by_both(guest: BootedGuest) -> None:
    holder = (
        "import fcntl,time; f=open('/var/lib/dpkg/lock-frontend','w'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(60)"
    )
    guest.run(f'systemd-run --quiet --collect --unit=holder python3 -c "{holder}"')
    guest.run("systemd-run --quiet --collect --unit=llm-job-model sleep 60")
    try:
        wait_for(lambda: "python3" in reasons(guest) and "llm-job-model" in reasons(guest), "both to be seen")
        guest.run(LOOK)
        assert '"since": null' in guest.run("cat /run/provisioner/idle-timer.json").stdout
        said = guest.run("journalctl -u provisioner-idle -n 5 -o cat").stdout
        assert "lock-frontend is held" in said
        assert "llm-job-model.service" in said
    finally:
        guest.run("systemctl stop holder llm-job-model", check=False)
    wait_for(lambda: reasons(guest) == "", "both to be gone")


@pytest.mark.parametrize(
    ("options", "command", "seen"),
    [
        (("-tt",), "sleep 60", "ops is logged in (pts/"),
        (("-T",), "sleep 61", "ops is logged in (sleep 61)"),
        (("-T", "-N"), "", ""),
        (("-T",), 'sh -c "sleep 62; sleep 63" gather-gpu-facts', ""),
    ],
    ids=["a person", "work without a terminal", "an open connection", "a look of ours"],
)
def test_sessions_over_ssh_are_told_apart(
    guest: BootedGuest, options: tuple[str, ...], command: str, seen: str
) -> None:
    trust = ("-o", "HostKeyAlias=guest", "-o", f"UserKnownHostsFile={guest.folder}/known_hosts")
    way = ("-o", f"ProxyCommand={guest.proxy_command}", "-i", str(guest.private_key), "ops@guest")
    words = ["ssh", "-v", *options, *trust, *way, *([command] if command else [])]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as session:
        try:
            assert session.stderr is not None
            came = any(b"Entering interactive session" in line for line in session.stderr)
            assert came
            if seen:
                wait_for(lambda: seen in reasons(guest), "the session to be seen", 20)
            # One without a session has no @ behind its name.
            wait_for(lambda: "sshd: ops" in guest.run("ps -eo args").stdout.replace("-session", ""), "a connection")
            assert bool(reasons(guest)) is bool(seen)
        finally:
            session.terminate()
    wait_for(lambda: reasons(guest) == "", "the session to end")


ENGINE = """\
import http.server

class Engine(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["Authorization"] == "Bearer sk-of-the-guest"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(open("/run/numbers", "rb").read() if known else b"who are you?")

http.server.HTTPServer(("127.0.0.1", 8080), Engine).serve_forever()
"""


def test_an_engine_behind_a_key_is_shown_the_one_that_only_root_reads(guest: BootedGuest) -> None:
    (guest.tree / "root/engine.py").write_text(ENGINE)
    guest.run("printf 'llamacpp:prompt_tokens_total 7\nllamacpp:requests_processing 0\n' > /run/numbers")
    guest.run("systemd-run --quiet --collect --unit=engine python3 /root/engine.py")
    look = f"rm -f /run/provisioner/idle-timer.json; {LOOK}"
    state = "cat /run/provisioner/idle-timer.json"
    try:
        wait_for(lambda: guest.run("ss -Hltn 'sport = :8080'").stdout, "the engine")
        guest.run(look)
        assert '"since": null' in guest.run(state).stdout, "nobody knows its key yet, and unknown counts as use"
        guest.run("install -d /etc/llm && umask 077 && echo 'LLAMA_API_KEY=\"sk-of-the-guest\"' > /etc/llm/small.env")
        guest.run(look)
        assert '"since": null' not in guest.run(state).stdout
        guest.run("sed -i s/processing.0/processing\\ 1/ /run/numbers")
        guest.run(look)
        assert '"since": null' in guest.run(state).stdout
        assert "sk-of-the-guest" not in guest.run("journalctl -u provisioner-idle -o cat").stdout
    finally:
        guest.run("systemctl stop engine; rm -rf /etc/llm /root/engine.py", check=False)


def test_it_goes_off_when_it_is_time_and_stays_on_after_the_next_boot(guest: BootedGuest) -> None:
    guest.run("systemctl stop provisioner-idle.timer; rm -f /run/provisioner/idle-timer.json")
    changed = guest.tree / "etc/systemd/system/provisioner-idle.service.d/test.conf"
    changed.parent.mkdir()
    look = "/usr/bin/python3 /etc/provisioner/idle_timer.py 0.001 ops"
    changed.write_text(f"[Service]\nExecStart=\nExecStart={look}\n")
    guest.run(f"systemctl daemon-reload; {LOOK}")
    assert guest.run("systemctl is-system-running").stdout == "running\n", "the first look only begins to count"
    guest.run(LOOK, check=False)
    # Namespaces have no power to switch off: the last thing that is seen of it is that it goes down.
    wait_for(lambda: "running" not in guest.run("systemctl is-system-running", check=False).stdout, "it to go down")
    changed.unlink()
    guest.cut_the_power()
    guest.boot()
    assert guest.run("systemctl is-active provisioner-idle.timer").stdout == "active\n"
    guest.run("! test -e /run/provisioner/idle-timer.json")


def test_it_goes_when_it_is_no_longer_wanted(guest: BootedGuest) -> None:
    done = guest.play("configure-guest-base", BASE)
    assert done.code == 0, done.text
    assert guest.run("systemctl is-active provisioner-idle.timer", check=False).stdout == "inactive\n"
    guest.run(f"! ls {FILES}")
    again = guest.play("configure-guest-base", BASE)
    assert (again.code, again.changed) == (0, 0), again.text


def reasons(guest: BootedGuest) -> str:
    told = guest.run(quoted(use_command())).stdout
    return "; ".join(each.reason for each in guest_signals(told, user="ops", has_gpus=False) if each.reason)


def quoted(words: tuple[str, ...]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
