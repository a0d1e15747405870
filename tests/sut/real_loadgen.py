"""The real LoadGen in a child process, over a SUT that answers immediately."""

from pathlib import Path

from sut.settings import Mode, Scenario
from tests.forked import completed, main_of

CONF = """\
*.*.min_duration = 100
*.*.performance_sample_count_override = 4
*.*.accuracy_sample_count_override = 4
*.Offline.min_query_count = 4
*.*.target_qps = 1000
"""
# An Offline run with this conf is VALID.
CONF_OF_ONE = """\
*.*.min_duration = 0
*.*.performance_sample_count_override = 1
*.*.accuracy_sample_count_override = 1
*.*.min_query_count = 1
*.*.target_qps = 1
"""
# argv: conf, scenario, mode, output directory, audit.config or nothing.
RUN = """
import array, sys, threading
from pathlib import Path
from sut import loadgen
from sut.settings import Mode, Scenario
tokens = array.array("i", [18, 19, 200002])
address = tokens.buffer_info()[0]
num = 0
def issue(ids, samples):
    global num
    num += len(ids)
    if sys.argv[2] != "offline":
        loadgen.first_token_complete(ids, [address] * len(ids), [1] * len(ids))
    loadgen.query_samples_complete(ids, [address] * len(ids), [3] * len(ids))
test = loadgen.LoadGenTest(sys.argv[1], Scenario(sys.argv[2]), Mode(sys.argv[3]))
audit_config = Path(sys.argv[5]) if sys.argv[5] else None
thread = threading.Thread(target=test.run, args=(4, issue, Path(sys.argv[4]), audit_config))
thread.start()
thread.join()
print(num)
"""


def run_loadgen(
    conf: str,
    scenario: Scenario,
    mode: Mode,
    directory: Path,
    audit_config: Path | None = None,
    **variables: str,
) -> int:
    """Run LoadGen in a child process with answers of 3 tokens; returns how many samples it issued.

    Args:
        conf: Text of the user.conf.
        scenario: The scenario.
        mode: The mode.
        directory: For LoadGen's logs.
        audit_config: The audit.config, if there is one.
        variables: Environment variables of the process.
    """
    argv = [conf, scenario, mode, str(directory), str(audit_config or "")]
    done = completed(main_of(RUN), argv, **variables)
    assert 0 == done.returncode, done.stderr
    return int(done.stdout)
