"""Rates of a run from its requests.parquet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.flags import FlagError
from common.text import printable
from sut.log_files import REQUESTS

_COLUMNS = ("answer_tokens", "first_arrival_ns", "done_arrival_ns")
Ints = NDArray[np.int64]


def read_rate_before_tail(run_dir: Path, run_id: object) -> float | None:
    """Return the tokens per second until the last request got its first token.

    In Offline all slots are full until then. At the end of a run slots are empty, for a time that depends on
    the lengths of the last answers: that is noise in LoadGen's rate.

    Args:
        run_dir: The run's directory.
        run_id: That of its run.json.

    Returns:
        None if the run has no requests.parquet, or no such time.

    Raises:
        FlagError: The file cannot be read, or is of another run.
    """
    columns = read_columns(run_dir, run_id, _COLUMNS)
    return None if columns is None else rate_before_tail(*columns)


def read_columns(run_dir: Path, run_id: object, names: Sequence[str]) -> list[Ints] | None:
    """Read columns of a run's requests.parquet, (N,) each, of the N requests of which all of them are known.

    An answer without tokens has no time of its first one.

    Returns:
        None if the run has no such file.

    Raises:
        FlagError: The file cannot be read, or is of another run.
    """
    path = run_dir / REQUESTS
    if not path.exists():
        return None
    # Takes 0.2 s to import.
    from sut.results.timing.requests_file import ForeignFileError, check_integers, open_parquet

    try:
        with open_parquet(path, run_id) as file:
            known = file.read(names).drop_null()
        check_integers(path, known, names)
        return [known.column(name).to_numpy().astype(np.int64) for name in names]
    except ForeignFileError as error:
        raise FlagError("RUNS", str(error)) from error
    except OSError as error:
        reason = printable(str(error.strerror or error), 200)
        raise FlagError("RUNS", f"cannot be read: {reason}", path) from error


def rate_before_tail(num_tokens: Ints, first_ns: Ints, done_ns: Ints) -> float | None:
    """Return the tokens per second until the last request got its first token; None if none came before.

    Args:
        num_tokens: Length of each answer, (N,).
        first_ns: Time of the first token since the first query, (N,).
        done_ns: Time of the last token, (N,). Between the two, tokens are taken to come at equal distances.
    """
    if not len(num_tokens) or (end_ns := int(first_ns.max())) <= 0:
        return None
    durations = np.maximum(done_ns - first_ns, 1)
    done = np.clip((end_ns - first_ns) / durations, 0.0, 1.0)
    tokens_per_s = float((num_tokens * done).sum()) / end_ns * 1e9
    # No token comes before the last request begins if all begin together, as a single one does.
    return tokens_per_s if tokens_per_s > 0 else None
