"""Tokens and what they may do."""

from __future__ import annotations

import pytest

from provisioner.domain.callers import LOCAL, Caller, Callers, Scope

N8N = Caller("n8n", frozenset({Scope.ROUTE}))
ADMIN = Caller("me", frozenset({Scope.ADMIN}))
CALLERS = Callers([(N8N, "n8n-token-0123456789"), (ADMIN, "my-token-0123456789")])


@pytest.mark.parametrize(
    ("header", "who"),
    [
        ("Bearer n8n-token-0123456789", N8N),
        ("bearer  n8n-token-0123456789 ", N8N),
        ("Bearer my-token-0123456789", ADMIN),
        ("Bearer my-token-012345678", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic n8n-token-0123456789", None),
        ("n8n-token-0123456789", None),
        ("", None),
        (None, None),
        ("Bearer \ud800", None),
    ],
)
def test_only_a_known_token_has_a_name(header: str | None, who: Caller | None) -> None:
    assert CALLERS.who(header) == who


def test_a_token_may_what_the_file_says_and_an_admin_everything() -> None:
    assert [scope for scope in Scope if N8N.is_allowed(scope)] == [Scope.ROUTE]
    assert [scope for scope in Scope if ADMIN.is_allowed(scope)] == list(Scope)


def test_without_tokens_everybody_is_local() -> None:
    assert Callers().who(None) is LOCAL
    assert Callers().who("Bearer whatever") is LOCAL


def test_no_table_of_ours_shows_a_token() -> None:
    assert "token-0123456789" not in repr(vars(CALLERS))
