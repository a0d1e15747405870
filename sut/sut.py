"""The system under test for LoadGen: receives queries, reports first tokens and completions."""

import threading
from collections.abc import Callable

from sut import loadgen
from sut.settings import Scenario

OnError = Callable[[BaseException], None]


class SUT:
    """Receives LoadGen's queries."""

    def __init__(self, issue: loadgen.Issue, on_error: OnError) -> None:
        """Connect LoadGen to the coordinator.

        Args:
            issue: Called with the ids and sample indices of each query; thread-safe, does not block.
            on_error: Called with an exception raised by `issue`; ends the run.
        """
        self._issue = issue
        self._on_error = on_error

    def issue_queries(self, loadgen_ids: list[int], samples: list[int]) -> None:
        """Pass one query to `issue`.

        Thread: LoadGen's; never raises, because an exception would crash the process.
        """
        try:
            self._issue(loadgen_ids, samples)
        except BaseException as error:  # noqa: BLE001 - an exception would crash the process
            self._on_error(error)


class Reports:
    """Reports first tokens and completions to LoadGen, all from one thread."""

    def __init__(self, scenario: Scenario) -> None:
        """Create the reporter.

        Args:
            scenario: Determines whether first tokens are reported; Offline has no TTFT.
        """
        self.reports_first_tokens = scenario is not Scenario.OFFLINE
        self._thread: int | None = None
        self._closed = False

    def first_tokens(self, loadgen_ids: list[int], addresses: list[int]) -> loadgen.CallTimes:
        """Report the first token of requests, once per request.

        Args:
            loadgen_ids: LoadGen's ids.
            addresses: Memory address of each first token.

        Thread: event loop; does not block.
        """
        if self._closed or threading.get_ident() != self._thread:
            self._check_thread()
        return loadgen.first_token_complete(loadgen_ids, addresses, [1] * len(loadgen_ids))

    def complete(self, loadgen_ids: list[int], addresses: list[int], counts: list[int]) -> loadgen.CallTimes:
        """Report completed requests with all their tokens.

        Args:
            loadgen_ids: LoadGen's ids.
            addresses: Memory address of each request's tokens.
            counts: Number of tokens of each request, including the first; LoadGen treats 0 and 1 as errors.

        Thread: event loop; does not block.
        """
        if self._closed or threading.get_ident() != self._thread:
            self._check_thread()
        if self.reports_first_tokens and 0 in counts:
            # LoadGen crashes on a completion that no first-token call preceded (loadgen/logging.cc:296).
            empty = [row for row, count in enumerate(counts) if count == 0]
            loadgen.first_token_complete(
                [loadgen_ids[row] for row in empty], [addresses[row] for row in empty], [0] * len(empty)
            )
        return loadgen.query_samples_complete(loadgen_ids, addresses, counts)

    def close(self) -> None:
        """Refuse further reports: StartTest has returned, and LoadGen's ids are dangling pointers."""
        self._closed = True

    def _check_thread(self) -> None:
        """Remember the thread of the first report.

        Raises:
            RuntimeError: This report comes from another thread, or after `close`.
        """
        if self._closed:
            raise RuntimeError("a report after StartTest returned")
        if self._thread is not None:
            raise RuntimeError("first tokens and completions must come from one thread")
        self._thread = threading.get_ident()
