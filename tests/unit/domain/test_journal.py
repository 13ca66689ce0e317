"""Lines of a journal."""

from __future__ import annotations

import json

from provisioner.domain.journal import read_journal_line

ENTRY = {
    "__CURSOR": "s=1;i=2",
    "__REALTIME_TIMESTAMP": "1763717462000001",
    "SYSLOG_IDENTIFIER": "llama-server",
    "MESSAGE": "server is listening",
}


def test_a_line_has_a_time_a_speaker_and_words() -> None:
    line = read_journal_line(json.dumps(ENTRY))
    assert line is not None
    assert str(line) == "2025-11-21T09:31:02Z llama-server: server is listening"
    assert line.cursor == "s=1;i=2"
    assert line.as_dict() == {
        "time": "2025-11-21T09:31:02Z",
        "source": "llama-server",
        "text": "server is listening",
    }


def test_bytes_that_are_no_text_are_shown_as_far_as_they_are() -> None:
    line = read_journal_line(json.dumps(ENTRY | {"MESSAGE": [111, 107, 255, 27]}))
    assert line is not None
    assert line.text == "ok\ufffd\x1b"


def test_a_message_that_was_left_out_is_empty() -> None:
    line = read_journal_line(json.dumps(ENTRY | {"MESSAGE": None}))
    assert line is not None
    assert line.text == ""


def test_what_is_no_entry_is_none() -> None:
    assert read_journal_line("-- No entries --") is None
    assert read_journal_line("{}") is None
    assert read_journal_line("[1]") is None
