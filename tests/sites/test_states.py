"""A client's states at its site: the last two rounds, whole, and the one that the server means."""

import pytest
import torch

from fedpeft.errors import UserError
from fedpeft.federation.client import ClientState
from fedpeft.sites.states import SiteStates

RUN = "0123abcd" * 4


def make_state(value):
    return ClientState({"w": torch.full((2,), float(value))}, {"mask": torch.tensor([True, False])})


def test_a_server_that_goes_back_a_round_finds_the_state_it_means(tmp_path):
    states = SiteStates(tmp_path, RUN, "a")
    assert states.load(0).trained is None
    states.save(0, 1, make_state(1))
    states.save(1, 3, make_state(3))
    states.save(1, 3, make_state(33))  # the server did not count round 3, and asks for it again
    assert states.load(1).trained["w"].tolist() == [1, 1]
    assert states.load(3).trained["w"].tolist() == [33, 33]
    assert states.load(3).kept["mask"].tolist() == [True, False]
    states.save(3, 4, make_state(4))
    assert sorted(path.name for path in (tmp_path / RUN).iterdir()) == ["round-3.state", "round-4.state"]


def test_runs_do_not_share_states(tmp_path):
    SiteStates(tmp_path, RUN, "a").save(0, 1, make_state(1))
    with pytest.raises(UserError, match=r"no state of round 1 \(none kept\)"):
        SiteStates(tmp_path, "ab" * 16, "a").load(1)


@pytest.mark.parametrize("run", ["", "../x", "/etc", "a" * 7, "g" * 32, "A" * 32])
def test_a_runs_name_is_no_path(tmp_path, run):
    with pytest.raises(UserError, match="a run's name is its digest"):
        SiteStates(tmp_path, run, "a")


def test_a_damaged_state_is_one_line(tmp_path):
    states = SiteStates(tmp_path, RUN, "a")
    states.save(0, 1, make_state(1))
    path = tmp_path / RUN / "round-1.state"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="state of round 1 is damaged") as caught:
        states.load(1)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_state_before(tmp_path, monkeypatch):
    states = SiteStates(tmp_path, RUN, "a")
    states.save(0, 1, make_state(1))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        states.save(1, 2, make_state(2))
    monkeypatch.undo()
    assert states.load(1).trained["w"].tolist() == [1, 1]
