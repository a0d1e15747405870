"""The version whose interface is stood for."""

__version__ = "0.5.15"
