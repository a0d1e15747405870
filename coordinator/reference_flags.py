"""Flags of the reference's run_mlperf.py that this program does not have, with what to use instead."""

from collections.abc import Sequence

from common.flags import FlagError

# Source: language/gpt-oss-120b/run_mlperf.py and language/deepseek-r1/run_mlperf.py of mlcommons/inference.
INSTEAD = {
    "--backend": "the workers choose their engine: tokenfleet worker --engine, or tokenfleet local --backend",
    "--log-dir": "all files of a run are written to --output-dir",
    "--max-concurrency": "the workers bound the requests in progress: --max-num-seqs of vLLM",
    "--mlperf-conf": "LoadGen has its mlperf.conf built in; use --user-conf for your own settings",
    "--mode": "use --scenario",
    "--num-samples": "use --max-samples",
    "--num-workers": "use --workers with the addresses of all workers; each takes many requests at once",
    "--output-file": "all files of a run are written to --output-dir",
    "--server-url": "use --workers host:port",
    "--skip-samples": "a run uses the rows from the first on; --max-samples limits their number",
    "--timeout": "use --query-timeout-s",
}


def refuse_reference_flags(argv: Sequence[str]) -> None:
    """Refuse a flag that only the reference has.

    Raises:
        FlagError: Names the flag and what to use instead.
    """
    for word in argv:
        name = word.partition("=")[0]
        if name in INSTEAD:
            raise FlagError(name, f"is a flag of the MLPerf reference: {INSTEAD[name]}")
