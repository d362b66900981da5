import logging

import pytest

from fedpeft.errors import UserError
from fedpeft.runs import failure_log
from fedpeft.runs.failure_log import FAILURES, FailureLog


def raise_and_log():
    try:
        undefined_name  # noqa: B018
    except NameError:
        logging.getLogger("fedpeft.engines.local").exception("client %s failed in round %d", "site1", 3)


def test_failures_have_their_traceback_in_the_folder_while_it_is_open(tmp_path):
    logger = logging.getLogger("fedpeft")
    before = logger.level, list(logger.handlers)
    failures = FailureLog(tmp_path)
    logging.getLogger("fedpeft.runs").warning("not a failure")
    assert not (tmp_path / FAILURES).exists()
    raise_and_log()
    failures.close()
    raise_and_log()
    text = (tmp_path / FAILURES).read_text()
    assert text.count("Traceback") == 1 and "NameError: name 'undefined_name'" in text and "failed in round 3" in text
    assert "test_failure_log.py" in text and (logger.level, logger.handlers) == before


def test_the_file_has_what_the_screen_does_not_ask_for(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "level", logging.CRITICAL)
    failures = FailureLog(tmp_path)
    raise_and_log()
    failures.close()
    assert "NameError" in (tmp_path / FAILURES).read_text()


def test_a_client_that_always_fails_fills_no_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(failure_log, "MAX_BYTES", 10_000)
    failures = FailureLog(tmp_path)
    for _ in range(200):
        raise_and_log()
    failures.close()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 25_000


def test_a_link_in_its_place_is_not_written_through(tmp_path):
    (tmp_path / "other").write_text("mine")
    (tmp_path / FAILURES).symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="is a link"):
        FailureLog(tmp_path)
    assert (tmp_path / "other").read_text() == "mine"


def test_a_name_that_is_no_unicode_text_is_written_with_its_escape(tmp_path):
    failures = FailureLog(tmp_path)
    failures.emit(logging.makeLogRecord({"msg": "client site\ud800 failed"}))
    failures.close()
    assert "client site\\ud800 failed" in (tmp_path / FAILURES).read_text()
