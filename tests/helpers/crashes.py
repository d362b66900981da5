"""A child process that is killed at one of its file operations, as `kill -9` or a power cut may do it."""

import os
import stat
import sys
import traceback

KILLED = 9
_CHANGES = {"os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.link", "os.symlink"}


def run_and_kill(folder, number, function):
    """Runs a function in a child that is killed before its `number`-th change of a file under `folder`, from 1.

    Where that is an fsync, the end of what was written is lost. Returns whether it was killed; False when it came to
    its end before. An error of the function fails the test.
    """
    child = os.fork()
    if child == 0:
        _Countdown(str(folder), number).install()
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), f"the child ended with {status}"
    return status == KILLED


class _Countdown:
    def __init__(self, folder, number):
        self.folder, self.left, self.is_ending = folder, number, False

    def install(self):
        os.fsync = lambda descriptor: self.count(lambda: _lose_end(descriptor))
        sys.addaudithook(self.hear)

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
                self.count(lambda: None)

    def count(self, end):
        self.left -= 1
        if self.left == 0 and not self.is_ending:
            self.is_ending = True
            end()
            os._exit(KILLED)


def _lose_end(descriptor):
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        os.ftruncate(f := os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY), max(0, status.st_size - 7))
        os.close(f)
