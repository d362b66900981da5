"""A child process that is killed, or whose disk is full, from one of its file operations on."""

import errno
import os
import stat
import sys
import traceback

from fedpeft.errors import UserError

KILLED, REFUSED = 9, 28
_CHANGES = {"os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.link", "os.symlink"}


def run_and_kill(folder, number, function):
    """Runs a function in a child that is killed before its `number`-th change of a file under `folder`, from 1.

    Where that is an fsync, the end of what was written is lost. Returns whether it was killed; False when it came to
    its end before. An error of the function fails the test.
    """
    return _run_in_child(_Killing(str(folder), number), function, KILLED)


def run_on_full_disk(folder, number, function):
    """The same on a disk that is full from there on; returns whether the function raised UserError."""
    return _run_in_child(_Filling(str(folder), number), function, REFUSED)


def _run_in_child(countdown, function, end):
    child = os.fork()
    if child == 0:
        countdown.install()
        try:
            function()
        except UserError:
            os._exit(REFUSED)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, end), f"the child ended with {status}"
    return status == end


class _Countdown:
    def __init__(self, folder, number):
        self.folder, self.left = folder, number

    def install(self):
        os.fsync = self.sync
        sys.addaudithook(self.hear)

    def sync(self, descriptor):
        self.count("os.fsync", descriptor)

    def hear(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            is_change = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            is_change = event in _CHANGES
            path = arguments[0] if is_change else None
        if is_change and isinstance(path, str | os.PathLike):
            path = os.fspath(path)
            if not os.path.isabs(path) or path.startswith(self.folder):  # shutil.rmtree names entries of an open folder
                self.count(event, None)


class _Killing(_Countdown):
    def count(self, event, descriptor):
        self.left -= 1
        if self.left == 0:
            if descriptor is not None:
                _lose_end(descriptor)
            os._exit(KILLED)


class _Filling(_Countdown):
    def count(self, event, descriptor):
        if event in ("open", "os.mkdir", "os.fsync"):  # a full disk can be tidied
            self.left -= 1
            if self.left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lose_end(descriptor):
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        os.truncate(f"/proc/self/fd/{descriptor}", max(0, status.st_size - 7))
