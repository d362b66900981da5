"""What `fedpeft site init` writes: certificates that verify, keys that match, files that our own readers take."""

import ipaddress
import ssl
import stat

import pytest
import yaml

pytest.importorskip("flwr", reason="needs fedpeft[flower]")

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from fedpeft.errors import UserError
from fedpeft.sites.config import load_site
from fedpeft.sites.init import init_federation
from fedpeft.sites.superlink import load_server, make_command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("init") / "fed"
    init_federation(root, ["north", "süd"], "10.0.0.7:8443")
    return root


def test_each_site_has_its_own_key_and_the_server_its_public_half(folder):
    numbers = set()
    for site in ("north", "süd"):
        private = load_ssh_private_key((folder / site / "node.key").read_bytes(), None)
        public = load_ssh_public_key((folder / "server" / "keys" / f"{site}.pub").read_bytes())
        assert private.public_key().public_numbers() == public.public_numbers()
        assert private.curve.name == "secp384r1"
        numbers.add(public.public_numbers())
    assert len(numbers) == 2


def test_private_files_are_their_owners_alone(folder):
    for path in (folder / "north" / "node.key", folder / "server" / "server.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(folder.glob("north/../*/server.key")) or not (folder / "north" / "server.key").exists()


def test_the_servers_certificate_is_signed_by_the_authority_and_names_the_server(folder):
    authority = x509.load_pem_x509_certificate((folder / "north" / "ca.pem").read_bytes())
    server = x509.load_pem_x509_certificate((folder / "server" / "server.pem").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("10.0.0.7") in names.get_values_for_type(x509.IPAddress)
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    context = ssl.create_default_context(cafile=folder / "north" / "ca.pem")  # openssl takes both files, too
    context.load_cert_chain(folder / "server" / "server.pem", folder / "server" / "server.key")


def test_our_own_readers_take_what_was_written(folder):
    site = load_site(folder / "süd" / "site.yaml")
    assert (site.id, site.superlink, site.insecure) == ("süd", "10.0.0.7:8443", False)
    assert site.node_key == str(folder / "süd" / "node.key")
    server = load_server(folder / "server")
    assert (server.superlink, server.sites, server.insecure) == ("10.0.0.7:8443", 2, False)
    command = make_command(folder / "server", server, 8443)
    assert "--enable-supernode-auth" in command and "--insecure" not in command
    services = yaml.safe_load((folder / "compose.yaml").read_text())["services"]
    assert set(services) == {"superlink", "north-worker", "north-node", "süd-worker", "süd-node"}


def test_plain_text_is_asked_for_by_name_and_stays_on_this_machine(tmp_path):
    init_federation(tmp_path / "fed", ["a"], "127.0.0.1:8000", insecure=True)
    server = load_server(tmp_path / "fed" / "server")
    command = make_command(tmp_path / "fed" / "server", server, 8000)
    assert "--insecure" in command and command[command.index("--host") + 1] == "127.0.0.1"
    assert load_site(tmp_path / "fed" / "a" / "site.yaml").node_key is None


@pytest.mark.parametrize(
    ("sites", "address", "message"),
    [
        (["a", "a"], "h:1", "every site needs a name of its own"),
        (["server"], "h:1", "other than 'server'"),
        (["../x"], "h:1", "--sites"),
        (["a"], "nowhere", "--address: expected host:port, received 'nowhere'"),
        (["a"], "h:99999", "--address: expected host:port"),
        (["a", "A"], "h:1", "differ by case"),
    ],
)
def test_names_that_will_not_do_are_told_in_one_line_and_leave_nothing(tmp_path, sites, address, message):
    with pytest.raises(UserError, match=message) as caught:
        init_federation(tmp_path / "fed", sites, address)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "fed").exists()


def test_keys_are_never_replaced(folder):
    before = (folder / "north" / "node.key").read_bytes()
    with pytest.raises(UserError, match="is there already; keys are never replaced"):
        init_federation(folder, ["north"], "h:1")
    assert (folder / "north" / "node.key").read_bytes() == before
