"""A client's states at its site: written whole or not at all, of the last two rounds that it trained, by run."""

import re
from pathlib import Path

from fedpeft.atomic_files import write_atomically
from fedpeft.engines.flower.exchange import decode_state, encode_state
from fedpeft.errors import UserError
from fedpeft.federation.client import ClientState

_RUN = re.compile(r"[0-9a-f]{8,64}")  # it names a folder
_NAME = re.compile(r"round-(\d{1,9})\.state")


class SiteStates:
    """The states of one client in one run. A round trained again replaces what it left the first time."""

    def __init__(self, folder: Path, run: str, client: str) -> None:
        if not _RUN.fullmatch(run):
            raise UserError(f"a run's name is its digest, received {run[:40]!r}")
        self.folder, self.client = folder / run, client

    def load(self, base: int) -> ClientState:
        """The state after round `base`, the last of this client that counted; 0: none has, as at the start.

        Raises UserError where it is not here, or damaged.
        """
        if base == 0:
            return ClientState()
        path = self._get_path(base)
        try:
            return decode_state(path.read_bytes())
        except FileNotFoundError:
            kept = ", ".join(map(str, self._list_rounds())) or "none"
            raise UserError(f"this site has no state of round {base} ({kept} kept): was its folder emptied?") from None
        except (OSError, ValueError) as error:
            raise UserError(f"this site's state of round {base} is damaged: {error}") from error

    def save(self, base: int, round_: int, state: ClientState) -> None:
        """Keeps the state after a round beside that it was trained from, and no other. Raises UserError (disk full)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._get_path(round_), encode_state(self.client, state))
        for other in self._list_rounds():
            if other not in (base, round_):
                self._get_path(other).unlink(missing_ok=True)

    def _list_rounds(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(match[1]) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name)))

    def _get_path(self, round_: int) -> Path:
        return self.folder / f"round-{round_}.state"
