"""A site's node: what must be right before Flower is started, and what Flower's last words mean."""

import socket
import ssl
import threading

import pytest

pytest.importorskip("flwr", reason="needs fedpeft[flower]")

from fedpeft.engines.flower.transport import check_transport
from fedpeft.errors import UserError
from fedpeft.sites.config import SiteConfig
from fedpeft.sites.init import init_federation
from fedpeft.sites.node import explain_end, make_command, require_node


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node") / "fed"
    init_federation(folder, ["a"], "127.0.0.1:8000")
    other = folder.parent / "other"
    init_federation(other, ["a"], "127.0.0.1:8000")
    return folder, other


@pytest.fixture
def listen(keys):
    """listen(tls) -> the port of a server on this machine that answers one connection."""
    servers = []

    def start(tls):
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(keys[0] / "server" / "server.pem", keys[0] / "server" / "server.key")

        def answer():
            connection, _ = server.accept()
            try:
                if tls:
                    connection = context.wrap_socket(connection, server_side=True)
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")
            except OSError:
                pass  # the client thinks otherwise: what it says is what is tested
            finally:
                connection.close()

        threading.Thread(target=answer, daemon=True).start()
        return server.getsockname()[1]

    yield start
    for server in servers:
        server.close()


def test_a_server_of_the_same_authority_passes(keys, listen):
    check_transport("127.0.0.1", listen(tls=True), str(keys[0] / "a" / "ca.pem"))
    check_transport("127.0.0.1", listen(tls=False), None)


@pytest.mark.parametrize(
    ("tls", "certificates", "message"),
    [
        (True, 1, "is not signed by"),
        (False, 0, "does not speak TLS"),
        (True, None, "does not speak plain text"),
    ],
)
def test_another_authority_or_transport_is_one_line(keys, listen, tls, certificates, message):
    path = None if certificates is None else str(keys[certificates] / "a" / "ca.pem")
    with pytest.raises(UserError, match=message) as caught:
        check_transport("127.0.0.1", listen(tls), path)
    assert "\n" not in str(caught.value)


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match=r"no SuperLink answers at 127\.0\.0\.1:"):
            check_transport("127.0.0.1", taken.getsockname()[1], None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "superlink is missing"),
        ({"superlink": "x"}, "superlink: expected host:port"),
        ({"superlink": "h:1"}, "root_certificates is missing.*insecure: true"),
        ({"superlink": "h:1", "root_certificates": "/none.pem"}, "root_certificates: no such file: /none.pem"),
    ],
)
def test_what_a_sites_file_lacks(fields, message):
    with pytest.raises(UserError, match=message):
        require_node(SiteConfig(id="a", source="x", **fields))


def test_a_node_without_its_key_is_not_started(keys):
    site = SiteConfig(id="a", source="x", superlink="h:1", root_certificates=str(keys[0] / "a" / "ca.pem"))
    with pytest.raises(UserError, match="node_key is missing"):
        require_node(site)


def test_the_command_carries_key_authority_and_worker(keys):
    site = SiteConfig(id="a", source="x", socket="/s/w.sock", superlink="h:1", root_certificates="/ca", node_key="/k")
    command = make_command(site, 9)
    assert command[command.index("--auth-supernode-private-key") + 1] == "/k"
    assert command[command.index("--root-certificates") + 1] == "/ca"
    assert 'worker="/s/w.sock"' in command and "--insecure" not in command


def test_why_a_node_ended_is_one_line():
    assert "not registered" in explain_end("x\nERROR: SuperNode activation failed.\nmore")
    assert explain_end("one\n\n last \x1b[31mwords\n") == "last \\x1b[31mwords"
    assert explain_end("") == "it printed nothing"
