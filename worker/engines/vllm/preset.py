"""Presets: named sets of vLLM's flags, one TOML file each in presets/."""

from pathlib import Path

from common.config_file import Table, read_table

FOLDER = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """List the presets."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_preset(name: str) -> Table:
    """Read the flags of one preset."""
    return read_table(FOLDER / f"{name}.toml", "worker")[1]
