"""Chats with `agentkit` in a pseudo terminal: terminal.py PROGRAM. Fails where a person would see something else."""

import fcntl
import os
import pty
import select
import sys
import termios
import time

PATIENCE = 120
UP, LEFT, BACKSPACE, CTRL_C, CTRL_D = "\x1b[A", "\x1b[D", "\x7f", "\x03", "\x04"

child, terminal = pty.fork()
if child == 0:
    os.execv(sys.argv[1], [sys.argv[1], "chat"])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, b"\x18\x00\x78\x00\0\0\0\0")
shown = ""


def expect(text):
    """Reads until the text was shown, and forgets what came before."""
    global shown
    deadline = time.monotonic() + PATIENCE
    while text not in shown:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([terminal], [], [], left)[0], f"no {text!r} in {shown!r}"
        try:
            read = os.read(terminal, 4096)
        except OSError:
            read = b""
        assert read, f"it ended before {text!r}: {shown!r}"
        shown += read.decode(errors="replace")
    shown = shown.split(text, 1)[1]


def say(keys):
    os.write(terminal, keys.encode())


expect("> ")
say("What is 17 * 23?\r")
expect("calculate")
expect("17 * 23 = 391.")
expect("> ")
# The line before comes back, and a digit of it is changed.
say(UP)
expect("What is 17 * 23?")
say(LEFT + LEFT + BACKSPACE + "4\r")
expect("17 * 43?")
# This turn has its call before it, and its answer.
expect("calculate")
say(CTRL_C)
expect("cancelled")
expect("> ")
say(CTRL_D)
deadline = time.monotonic() + PATIENCE
while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
    assert time.monotonic() < deadline, "it does not end"
    time.sleep(0.01)
sys.exit(os.waitstatus_to_exitcode(ended[1]))
