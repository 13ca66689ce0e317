"""One cluster's API over proxmoxer: connection reuse, call counting, and patience with a silent server.

No proxmoxer or requests exception leaves this module; `answers` turns them into
ours. What may be asked twice without harm is asked again while the patience of
the fleet file lasts; for the rest, `changes` looks whether it happened.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from proxmoxer.core import ResourceException

from provisioner.adapters.proxmox.answers import TaskMissing, Words, failure, not_ours, refusal
from provisioner.adapters.proxmox.connection import PasswordLogin, TokenLogin, connected
from provisioner.adapters.system_clock import SystemClock
from provisioner.domain.fleet import ClusterAddress
from provisioner.domain.timings import Timings
from provisioner.errors import LoginRefusedError, UnreachableError
from provisioner.ports.clock import Clock
from provisioner.waiting import Pace

__all__ = ["PasswordLogin", "ProxmoxSession", "TaskMissing", "TokenLogin"]

AGAIN = Pace(first=0.05, growth=2.0, longest=2.0)
"""Pauses between two tries of the same request."""

_OK = 200


@dataclass(frozen=True, slots=True)
class _Reader:
    """What a plain GET needs, prepared once for each connection."""

    api: Any
    pool: Any
    base: str
    headers: dict[str, str]


class ProxmoxSession:
    """Sends requests to one cluster. Safe to share between threads: each gets a connection of its own.

    Args:
        cluster: where it is, how it is trusted, how patient we are.
        login: who we are.
        renewed_login: reads the login again, for when Proxmox no longer takes it: a rotated token has a new secret.
        clock: time, for the pauses between two tries.
        timings: where each request is counted, by cluster, method and how it ended: ``answered``, ``refused`` or
            ``silent``.
    """

    def __init__(
        self,
        cluster: ClusterAddress,
        login: TokenLogin | PasswordLogin,
        *,
        renewed_login: Callable[[], TokenLogin | PasswordLogin] | None = None,
        clock: Clock | None = None,
        timings: Timings | None = None,
    ) -> None:
        self._cluster = cluster
        self._login = login
        self._renewed_login = renewed_login
        self._clock = clock or SystemClock()
        self._timings = timings or Timings()
        self._local = threading.local()
        self._has_answered = False

    @property
    def calls(self) -> int:
        """Requests that the current thread has sent: work on one node is one thread's, and is counted by itself."""
        return getattr(self._local, "calls", 0)

    @property
    def subject(self) -> str:
        """The cluster, in the words of messages."""
        return self._words("").subject

    @property
    def cluster(self) -> ClusterAddress:
        """The cluster, with our patience for it."""
        return self._cluster

    def call(self, method: str, path: str, /, *, purpose: str | None = None, **parameters: Any) -> Any:
        """Send one request and return its ``data``.

        Reading is tried again while no answer comes, and so is whatever was never sent, once the server has
        answered before: a first contact that fails is a wrong address more often than a server that restarts.

        Args:
            method: GET, POST, PUT or DELETE.
            path: below ``/api2/json``, such as ``nodes/pve1/qemu``.
            purpose: what it is for, such as ``start VM 5001``, for messages; by default the request itself.
            parameters: underscores in names become hyphens; None is left out; booleans become 1 and 0.

        Raises:
            VmMissingError: the VM in the path does not exist there.
            TaskMissing: the task in the path is not known.
            UnreachableError: no answer came; unless the method was GET, it may have happened.
            HypervisorError: with a branch for what the caller can act on.
        """
        words = self._words(purpose or f"{method} {path}", path)
        wire = {
            name.replace("_", "-"): int(value) if isinstance(value, bool) else value
            for name, value in parameters.items()
        }
        deadline = self._clock.monotonic() + self._cluster.retry_seconds
        pause = AGAIN.first
        may_renew = True
        while True:
            try:
                return self._sent(method, path, wire, words)
            except LoginRefusedError:
                if not may_renew or not self._renew_login():
                    raise
                may_renew = False
            except UnreachableError as silence:
                safe = method == "GET" if silence.may_have_happened else self._has_answered
                left = deadline - self._clock.monotonic()
                if not safe or left <= 0:
                    raise
                self._clock.sleep(min(pause, left))
                pause = min(pause * AGAIN.growth, AGAIN.longest)

    def read(self, path: str, *, purpose: str | None = None) -> Any:
        """Return the ``data`` of a GET without parameters, at a third of what `call` costs.

        A thousand nodes are as many of these, and most of what requests and proxmoxer do for one is the same each
        time. Whatever is not answered as it should be is asked again by `call`, which knows what that means.
        """
        try:
            reader = self._reader()
            self._local.calls = self.calls + 1
            began = time.perf_counter()
            answer = reader.pool.urlopen(
                "GET",
                f"{reader.base}/{path}",
                headers=reader.headers,
                timeout=self._cluster.answer_seconds,
                retries=False,
                redirect=False,
                assert_same_host=False,
            )
            if answer.status == _OK:
                data = json.loads(answer.data)["data"]
                if data is not None:
                    self._has_answered = True
                    self._count("GET", "answered", began)
                    return data
            # Counted as what it is by its second try.
        except (urllib3.exceptions.HTTPError, requests.exceptions.RequestException, OSError, ValueError, LookupError):
            pass
        return self.call("GET", path, purpose=purpose)

    def _reader(self) -> _Reader:
        api = self._api()
        reader: _Reader | None = getattr(self._local, "reader", None)
        if reader is None or reader.api is not api:
            session, base = api._store["session"], api._store["base_url"]
            # One request prepared by requests: the trust, headers and login of all.
            prepared = session.prepare_request(requests.Request("GET", base, cookies=session.auth.get_cookies()))
            adapter = session.get_adapter(base)
            pool = adapter.get_connection_with_tls_context(prepared, verify=session.auth.verify_ssl)
            reader = self._local.reader = _Reader(api, pool, urlsplit(base).path, dict(prepared.headers))
        return reader

    def _sent(self, method: str, path: str, wire: dict[str, Any], words: Words) -> Any:
        self._local.calls = self.calls + 1
        began = time.perf_counter()
        try:
            resource = self._api()(path)
            send = {"GET": resource.get, "POST": resource.post, "PUT": resource.put, "DELETE": resource.delete}[method]
            answer = send(**wire)
        except ResourceException as error:
            self._has_answered = True
            self._count(method, "refused", began)
            raise refusal(error, words) from error
        except requests.exceptions.RequestException as error:
            self._count(method, "silent", began)
            raise failure(error, words) from error
        # proxmoxer hands through a 200 that is no JSON, and makes nothing of a redirection: something else
        # listens there. Whatever we read from Proxmox is there, if only as an empty list.
        if (isinstance(answer, dict) and set(answer) == {"errors"}) or (answer is None and method == "GET"):
            self._count(method, "refused", began)
            raise not_ours(words)
        self._has_answered = True
        self._count(method, "answered", began)
        return answer

    def _count(self, method: str, end: str, began: float) -> None:
        self._timings.add((self._cluster.name, method, end), time.perf_counter() - began)

    def _words(self, what: str, path: str = "") -> Words:
        return Words(self._cluster, self._login.words, what, path)

    def _renew_login(self) -> bool:
        """Make the next try log in anew; return whether there is any hope in that. Raises InputError."""
        used = getattr(self._local, "login", None)
        if used is self._login:
            renewed = self._renewed_login() if self._renewed_login is not None else used
            # A ticket goes stale with its password still good; a second factor cannot be shown twice.
            is_stale = isinstance(used, PasswordLogin) and used.otp is None and self._local.api is not None
            if renewed.same_as(used) and not is_stale:
                return False
            self._login = renewed
        # Else another thread has renewed it, and only this one's connection is of yesterday.
        self._local.api = None
        return True

    def _api(self) -> Any:
        api = getattr(self._local, "api", None)
        if api is None:
            self._local.api, self._local.login = None, self._login
            api = self._local.api = connected(self._cluster, self._login)
        return api
