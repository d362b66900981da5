"""The report that is served: one page, to this machine alone, anew when files change, until the run is finished."""

import http.client
import json
import threading

import pytest
from helpers.mistakes import require_line
from helpers.result_files import make_log, make_result, write_comparison, write_run

from fedpeft.reports.live import LivePage, LiveServer


@pytest.fixture
def run(tmp_path):
    """A run of which two of three rounds are logged, and its result."""
    result = make_result("fedreft", 0, ["a", "b"], 3)
    log = [line for line in make_log(result) if line["round"] < 3]
    return write_run(tmp_path / "run", result, log, finished=False), result


@pytest.fixture
def serve():
    servers = []

    def start(path):
        server = LiveServer(LivePage(path), 0, 5)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(server, path="/", method="GET", host=None):
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def test_the_page_follows_the_run_and_asks_for_itself_until_the_end(run, serve):
    folder, result = run
    server = serve(folder)
    status, headers, text = ask(server)
    assert (status, headers["Refresh"], headers["Cache-Control"]) == (200, "5", "no-store")
    assert "2 of 3 rounds completed" in text
    assert server.page.get() is server.page.get()  # nothing changed: it is not made again
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in make_log(result) if line["round"] == 3)
    assert "3 of 3 rounds completed" in ask(server)[2]
    (folder / "result.json").write_text(json.dumps(result))
    status, headers, text = ask(server)
    assert "Refresh" not in headers and "not finished" not in text and "Test accuracy" in text


def test_a_comparison_is_followed_through_its_runs(tmp_path, serve):
    write_comparison(tmp_path / "out", ["local", "fedit"], 1, ["a"], 2)
    content = (tmp_path / "out/compare.json").read_text()
    (tmp_path / "out/compare.json").unlink()
    server = serve(tmp_path / "out")
    _, headers, text = ask(server)
    assert headers["Refresh"] == "5" and "The comparison is not finished" in text
    (tmp_path / "out/compare.json").write_text(content)
    assert "Refresh" not in ask(server)[1]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "", "localhost:1"])
def test_a_name_that_was_led_here_is_refused(host, run, serve):
    status, headers, text = ask(serve(run[0]), host=host)
    assert status == 421 and "fedreft" not in text and "Refresh" not in headers


def test_localhost_is_this_machine(run, serve):
    server = serve(run[0])
    assert ask(server, host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize("path", ["/metrics.jsonl", "/../experiment.yaml", "//etc/x", "/%2e%2e/", "/report.html/x"])
def test_nothing_but_the_report_is_served(path, run, serve):
    assert ask(serve(run[0]), path)[0] == 404


def test_methods_that_change_something_are_none(run, serve):
    server = serve(run[0])
    assert ask(server, method="POST")[0] == 501
    status, headers, text = ask(server, method="HEAD")
    assert status == 200 and text == "" and int(headers["Content-Length"]) > 10_000


def test_a_file_that_cannot_be_read_is_said_and_asked_for_again(run, serve):
    folder, _ = run
    server = serve(folder)
    (folder / "result.json").write_text("<b>half")
    status, headers, text = ask(server)
    assert status == 200 and headers["Refresh"] == "5"
    assert text.startswith("<p>") and "result.json" in text and "<b>" not in text


def test_mistakes_are_one_line(run, serve, tmp_path):
    server = serve(run[0])
    require_line(lambda: LiveServer(server.page, server.server_port, 5), f"port {server.server_port}", "--port")
    require_line(lambda: LivePage(tmp_path / "none"), "no run and no comparison")
