"""What a site's node hands over, and what it says where there is no worker."""

import subprocess
import sys
import threading

import pytest

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedpeft[flower]'")

from fedpeft.engines.flower.client_app import ask_worker
from fedpeft.engines.flower.frames import listen, receive_frame, send_frame
from fedpeft.engines.flower.protocol import unpack


def serve_once(server, answer):
    def work():
        connection, _ = server.accept()
        with connection:
            request = receive_frame(connection)
            if answer is not None:
                send_frame(connection, answer + request)

    threading.Thread(target=work, daemon=True).start()


def test_a_request_goes_to_the_worker_and_its_answer_back(tmp_path):
    with listen(tmp_path / "s") as server:
        serve_once(server, b"answer to ")
        assert ask_worker(str(tmp_path / "s"), b"request") == b"answer to request"


def test_a_message_is_never_silently_lost(tmp_path):
    def ask(path):
        return unpack(ask_worker(path, b"request"))[0]["error"]

    path = str(tmp_path / "s")
    assert ask("") == "the node's --node-config names no worker: the path of its worker's socket"
    missing = f"the site's worker is not there: nobody listens at {path}; start it with `fedpeft site run site.yaml`"
    assert ask(path) == missing
    listen(tmp_path / "s").close()
    assert ask(path) == missing
    with listen(tmp_path / "t") as server:
        serve_once(server, None)
        assert ask(str(tmp_path / "t")).endswith("ended while it worked on this message")


@pytest.mark.parametrize("module", ["client_app", "server_app"])
def test_what_flower_starts_for_every_message_imports_no_torch(module):
    code = f"import sys, fedpeft.engines.flower.{module}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr
