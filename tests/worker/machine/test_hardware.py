"""The description of a machine from files of the kernel."""

from pathlib import Path

from worker.machine.hardware import read_hardware


def write(root: Path, **files: str) -> None:
    """Write files by their path, in which `__` stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_server_is_described(tmp_path: Path) -> None:
    """Two sockets of two cores, caches, two network cards of one kind, one InfiniBand port and two disks."""
    cpus = [
        f"processor : {core}\nmodel name : Xeon\nphysical id : {core // 2}\ncpu cores : 2"
        for core in range(4)
    ]
    write(
        tmp_path,
        proc__cpuinfo="\n\n".join(cpus) + "\n",
        sys__devices__system__cpu__cpu0__cpufreq__cpuinfo_max_freq="3800000\n",
        sys__devices__system__cpu__cpu0__cache__index0__level="1\n",
        sys__devices__system__cpu__cpu0__cache__index0__type="Data\n",
        sys__devices__system__cpu__cpu0__cache__index0__size="48K\n",
        sys__devices__system__cpu__cpu0__cache__index3__level="3\n",
        sys__devices__system__cpu__cpu0__cache__index3__type="Unified\n",
        sys__devices__system__cpu__cpu0__cache__index3__size="105M\n",
        sys__devices__system__node__node0__meminfo="",
        sys__devices__system__node__node1__meminfo="",
        etc__os_release="",
        sys__class__net__lo__speed="",
        sys__class__infiniband__mlx5_0__ports__1__rate="400 Gb/sec (4X NDR)\n",
        sys__class__infiniband__mlx5_0__ports__1__link_layer="InfiniBand\n",
        sys__block__nvme0n1__size="7501476528\n",
        sys__block__nvme0n1__queue__rotational="0\n",
        sys__block__sda__size="1953125000\n",
        sys__block__sda__queue__rotational="1\n",
        sys__block__loop0__size="1953125000\n",
    )
    (tmp_path / "etc/os-release").write_text('NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04"\n')
    driver = tmp_path / "sys/bus/pci/drivers/mlx5_core"
    driver.mkdir(parents=True)
    for name in ("eth0", "eth1"):
        device = tmp_path / "sys/class/net" / name / "device"
        device.mkdir(parents=True)
        (device / "driver").symlink_to(driver)
        (device.parent / "speed").write_text("100000\n")
    found = read_hardware(tmp_path)
    found.pop("kernel")
    assert found == {
        "processor_model": "Xeon",
        "processor_sockets": "2",
        "cores_per_socket": "2",
        "processor_max_mhz": "3800",
        "processor_caches": "L1d 48K, L3 105M",
        "numa_nodes": "2",
        "operating_system": "Ubuntu 24.04",
        "network_cards": "2x mlx5_core 100000 Mbit/s",
        "infiniband_ports": "1x InfiniBand 400 Gb/sec (4X NDR)",
        # 7,501,476,528 and 1,953,125,000 sectors of 512 bytes.
        "disks": "1x NVMe SSD 3841 GB, 1x HDD 1000 GB",
    }


def test_a_machine_that_says_nothing_has_no_entries(tmp_path: Path) -> None:
    """Missing files are left out; nothing is invented."""
    assert {"kernel"} == set(read_hardware(tmp_path))
