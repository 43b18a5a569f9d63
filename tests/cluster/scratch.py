"""Where the tests keep their scratch: in memory where there is room, else where TMPDIR says. As a script it prints the folder.

What these tests kill is processes, never the machine: what a disk's sync is for does not show in them, and half the time of a
calibrated job of a small model is waiting for syncs. TMPDIR=/tmp leaves scratch on a disk, as tests/run.sh --full does.
"""

import os
import shutil
import tempfile

MEMORY = "/dev/shm"
ROOM_BYTES, AVAILABLE_KIB = 4 << 30, 8 << 20


def has_room():
    try:
        runs = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC  # containers' often may not
        with open("/proc/meminfo") as file:
            available = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
        return runs and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM_BYTES and available > AVAILABLE_KIB
    except OSError:
        return False


def choose():
    """For this process and those it starts."""
    if "TMPDIR" not in os.environ and has_room():
        os.environ["TMPDIR"] = tempfile.tempdir = MEMORY


if __name__ == "__main__":
    choose()
    print(tempfile.gettempdir())
