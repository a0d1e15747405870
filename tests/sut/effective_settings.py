"""LoadGen's effective settings, read by the real LoadGen in a child process, because LoadGen keeps state."""

import json
from pathlib import Path

from sut.loadgen_conf import NO_USER_CONF, USER_FLAG, ConfFile, read_conf
from sut.settings import Mode, Scenario
from sut.user_conf import compose_user_conf
from tests.forked import completed, main_of

OFFLINE, SERVER, INTERACTIVE = Scenario.OFFLINE, Scenario.SERVER, Scenario.INTERACTIVE
HEAD = "# Written for this run.\n"
GPT, FAST = "gpt-oss-120b", "gpt-oss-120b-interactive"
RATE = f"{FAST}.Server.target_qps"
# Reads argv[1] as a run would and prints the settings named in argv[3:].
READ = """
import json, sys
from sut.loadgen import LoadGenTest
from sut.settings import Mode, Scenario
settings = LoadGenTest(sys.argv[1], Scenario(sys.argv[2]), Mode.PERFORMANCE)._settings
print(json.dumps({name: getattr(settings, name) for name in sys.argv[3:]}))
"""


def compose(user: ConfFile = NO_USER_CONF, scenario: Scenario = OFFLINE, **changed: object) -> str:
    """Compose the conf of a performance run over the official number of samples, with changes."""
    values: dict[str, object] = {"mode": Mode.PERFORMANCE, "num_samples": 6396, "target_qps": None}
    return compose_user_conf(user, scenario=scenario, **(values | changed))  # type: ignore[arg-type]


def parsed(directory: Path, content: str | bytes, flag: str = USER_FLAG) -> ConfFile:
    """Write a conf and read it as a run would."""
    path = directory / "loadgen.conf"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_conf(flag, path)


def as_loadgen_reads(conf: str, scenario: Scenario, *names: str) -> dict[str, float]:
    """Let LoadGen read a conf in a child process; returns the named settings."""
    done = completed(main_of(READ), [conf, scenario, *names])
    assert done.returncode == 0, done.stderr
    values: dict[str, float] = json.loads(done.stdout)
    return values
