"""`fedpeft watch` as a user meets it."""

from helpers.result_files import make_log, make_result, write_run


def test_ctrl_c_ends_it_cleanly(tmp_path, fedpeft, monkeypatch):
    write_run(tmp_path / "run", result := make_result("fedit", 0, ["a"], 1), make_log(result), finished=False)

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedpeft.reports.live.LiveServer.serve_forever", interrupt)
    done = fedpeft("watch", "run", "--port", 0, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    first, last = done.stdout.splitlines()
    assert first.startswith("the report of run is at http://127.0.0.1:") and last.startswith("no longer served")
