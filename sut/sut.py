"""The system under test as LoadGen sees it: queries in, first tokens and completions out."""

import threading
from collections.abc import Callable

from sut import loadgen
from sut.settings import Scenario

OnError = Callable[[BaseException], None]


class SUT:
    """Takes LoadGen's queries."""

    def __init__(self, issue: loadgen.Issue, on_error: OnError) -> None:
        """Connect LoadGen to the coordinator.

        Args:
            issue: Takes the ids and sample indices of a query; thread-safe, does not wait.
            on_error: Takes what `issue` raised; ends the run.
        """
        self._issue = issue
        self._on_error = on_error

    def issue_queries(self, loadgen_ids: list[int], samples: list[int]) -> None:
        """Hand one query on.

        Thread: LoadGen's; never raises, because LoadGen would crash the process.
        """
        try:
            self._issue(loadgen_ids, samples)
        except BaseException as error:  # noqa: BLE001 - an exception that leaves here crashes the process
            self._on_error(error)


class Reports:
    """Reports first tokens and completions to LoadGen, all from one thread."""

    def __init__(self, scenario: Scenario) -> None:
        """Allow reports.

        Args:
            scenario: Decides whether first tokens are reported: Offline has no TTFT.
        """
        self.reports_first_tokens = scenario is not Scenario.OFFLINE
        self._thread: int | None = None
        self._closed = False

    def first_tokens(self, loadgen_ids: list[int], addresses: list[int]) -> None:
        """Report the first token of requests, once each.

        Args:
            loadgen_ids: LoadGen's ids.
            addresses: Memory address of each first token.

        Thread: event loop; does not block.
        """
        if self._closed or threading.get_ident() != self._thread:
            self._check_thread()
        loadgen.first_token_complete(loadgen_ids, addresses, [1] * len(loadgen_ids))

    def complete(self, loadgen_ids: list[int], addresses: list[int], counts: list[int]) -> None:
        """Report finished requests with all their tokens.

        Args:
            loadgen_ids: LoadGen's ids.
            addresses: Memory address of each request's tokens.
            counts: Tokens of each request, the first one included; LoadGen counts 0 and 1 as errors.

        Thread: event loop; does not block.
        """
        if self._closed or threading.get_ident() != self._thread:
            self._check_thread()
        if self.reports_first_tokens and 0 in counts:
            # LoadGen crashes on a completion without a first-token call before it (loadgen/logging.cc:296).
            empty = [row for row, count in enumerate(counts) if count == 0]
            loadgen.first_token_complete(
                [loadgen_ids[row] for row in empty], [addresses[row] for row in empty], [0] * len(empty)
            )
        loadgen.query_samples_complete(loadgen_ids, addresses, counts)

    def close(self) -> None:
        """Forbid reports: StartTest has returned and LoadGen's ids are dangling pointers."""
        self._closed = True

    def _check_thread(self) -> None:
        """Bind the first report's thread.

        Raises:
            RuntimeError: A report from another thread, or after `close`.
        """
        if self._closed:
            raise RuntimeError("a report after StartTest returned")
        if self._thread is not None:
            raise RuntimeError("first tokens and completions must come from one thread")
        self._thread = threading.get_ident()
