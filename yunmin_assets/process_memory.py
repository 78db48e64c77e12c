"""Memory of a process, as Linux tells it: proc(5), /proc/<process>/status."""

from pathlib import Path

RESIDENT, PEAK_RESIDENT, WITHOUT_FILES = "VmRSS", "VmHWM", "RssAnon"


def memory_bytes(field: str, process: int | str = "self") -> int | None:
    """One figure of a process, in bytes.

    Args:
        field: `RESIDENT` now, `PEAK_RESIDENT` its largest, or `WITHOUT_FILES`, the process's own pages now.
        process: its id; this process when absent.

    Returns:
        None where the operating system does not tell, or the process has ended.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
