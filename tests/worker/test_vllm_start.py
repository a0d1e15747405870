"""VllmEngine before it serves: configurations that vLLM refuses, and a load that is cut short."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.greedy import bounded, children, environment_kept
from worker.vllm_engine import VllmEngine, parse_engine_flags

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # vLLM's and torch's imports warn


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Give back the environment that parsing and vLLM change."""
    with environment_kept():
        yield


@pytest.mark.parametrize(
    ("argv", "changes", "message"),
    [
        (
            ["--max-model-len", "200000"],
            {},
            r"^User-specified max_model_len \(200000\) is greater than .*=131072",
        ),
        (["--gpu-memory-utilization", "1.5"], {}, "less than or equal to 1"),
        ([], {"architectures": ["NoSuchModel"]}, "NoSuchModel"),
    ],
)
def test_configuration_that_vllm_refuses_is_one_line(
    argv: list[str], changes: dict[str, object], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    """What vLLM cannot serve is the user's to mend: ValueError, one line."""
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    engine = VllmEngine(parse_engine_flags(argv, str(tmp_path)))
    with pytest.raises(ValueError, match=message) as caught:
        asyncio.run(bounded(engine.start()))
    assert "\n" not in str(caught.value)


def test_close_interrupts_loading(checkpoint: Path) -> None:
    """An engine closed while it loads leaves no process."""
    engine = VllmEngine(parse_engine_flags([], str(checkpoint)))

    async def interrupt() -> None:
        starting = asyncio.create_task(engine.start())
        # The engine core and its rank.
        while len(children()) < 2:
            await asyncio.wait({starting}, timeout=0.1)
        starting.cancel()
        await engine.close()

    asyncio.run(bounded(interrupt()))
    assert [] == children()
