"""Hardware and operating system of this machine, as text for the description of a system.

Everything comes from files of the Linux kernel and from /etc/os-release; what they do not say is left out.
"""

import os
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

# Kinds of block devices that are no disks.
_NO_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd")
_SECTOR_BYTES = 512
_MIN_DISK_BYTES = 10**9


def read_hardware(root: Path = Path("/")) -> dict[str, str]:
    """Read what the kernel says; may block on a stalled root file system.

    Args:
        root: Holds proc, sys and etc.
    """
    processors = _read_processors(root / "proc/cpuinfo")
    cpus = root / "sys/devices/system/cpu/cpu0"
    max_khz = _read(cpus / "cpufreq/cpuinfo_max_freq")
    found = {
        **_describe_processors(processors),
        "processor_max_mhz": str(int(max_khz) // 1000) if max_khz.isdecimal() else "",
        "processor_caches": ", ".join(_caches(cpus / "cache")),
        "numa_nodes": str(len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or ""),
        "operating_system": _os_name(root / "etc/os-release"),
        "kernel": platform.release(),
        "network_cards": _count(_network_cards(root / "sys/class/net")),
        "infiniband_ports": _count(_infiniband_ports(root / "sys/class/infiniband")),
        "disks": _count(_disks(root / "sys/block")),
    }
    return {name: text for name, text in found.items() if text}


def _read(path: Path) -> str:
    """Read a file of one line; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read_processors(path: Path) -> list[dict[str, str]]:
    """Read /proc/cpuinfo: one entry for each logical processor."""
    found = []
    for block in _read(path).split("\n\n"):
        pairs = (line.partition(":") for line in block.splitlines())
        found.append({name.strip(): value.strip() for name, _, value in pairs})
    return found


def _describe_processors(processors: list[dict[str, str]]) -> dict[str, str]:
    """Name the model, and count sockets and the cores of one; virtual machines may not say it."""
    models = dict.fromkeys(cpu["model name"] for cpu in processors if cpu.get("model name"))
    sockets = {cpu["physical id"] for cpu in processors if "physical id" in cpu}
    cores = {cpu["cpu cores"] for cpu in processors if "cpu cores" in cpu}
    return {
        "processor_model": ", ".join(models),
        "processor_sockets": str(len(sockets) or ""),
        "cores_per_socket": cores.pop() if len(cores) == 1 else "",
    }


def _caches(directory: Path) -> Iterator[str]:
    for index in _entries(directory):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if level and size:
            yield f"L{level}{'' if kind == 'Unified' else kind[:1].lower()} {size}"


def _os_name(path: Path) -> str:
    for line in _read(path).splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip('"')
    return ""


def _network_cards(directory: Path) -> Iterator[str]:
    """Describe each network interface that is a device, by its driver and speed."""
    for interface in _entries(directory):
        if not (interface / "device").exists():
            continue
        driver = os.path.basename(os.path.realpath(interface / "device" / "driver"))
        speed = _read(interface / "speed")
        yield f"{driver} {speed} Mbit/s" if speed.isdecimal() else driver


def _infiniband_ports(directory: Path) -> Iterator[str]:
    for card in _entries(directory):
        for port in _entries(card / "ports"):
            rate, layer = _read(port / "rate"), _read(port / "link_layer")
            yield f"{layer or 'port'} {rate}".strip()


def _disks(directory: Path) -> Iterator[str]:
    for disk in _entries(directory):
        sectors = _read(disk / "size")
        size = int(sectors) * _SECTOR_BYTES if sectors.isdecimal() else 0
        if disk.name.startswith(_NO_DISKS) or size < _MIN_DISK_BYTES:
            continue
        kind = "HDD" if _read(disk / "queue/rotational") == "1" else "SSD"
        yield f"{'NVMe ' if disk.name.startswith('nvme') else ''}{kind} {size / 10**9:.0f} GB"


def _entries(directory: Path) -> list[Path]:
    """List a directory, sorted by name; empty if it does not exist."""
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _count(texts: Iterable[str]) -> str:
    """Join equal texts with their number."""
    return ", ".join(f"{num}x {text}" for text, num in Counter(texts).items())
