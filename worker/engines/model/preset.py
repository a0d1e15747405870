"""Presets: named sets of an engine's flags, one TOML file each in the engine's folder presets/."""

from pathlib import Path

from common.config_file import Table, read_table

_ENGINES = Path(__file__).parent.parent
FOLDERS = {engine: _ENGINES / engine / "presets" for engine in ("vllm", "sglang")}
"""By the engine's name in --engine."""


def preset_names(*engines: str) -> list[str]:
    """List the presets of some engines, or of all."""
    return sorted(path.stem for engine in engines or FOLDERS for path in FOLDERS[engine].glob("*.toml"))


def preset_engine(name: str) -> str:
    """Return the engine whose flags a preset holds."""
    return next(engine for engine in FOLDERS if name in preset_names(engine))


def read_preset(name: str) -> Table:
    """Read the flags of one preset."""
    return read_table(FOLDERS[preset_engine(name)] / f"{name}.toml", "worker")[1]
