"""Whether vLLM is installed, asked before anything that comes with it is imported."""

import importlib.util


def check_installed() -> None:
    """Look for vLLM, without importing it.

    Raises:
        ValueError: It is not there; says how to get it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "--engine vllm: vLLM is not installed here: pip install '.[gpu]' or ./setup.sh; "
            "--engine counting needs none"
        )
