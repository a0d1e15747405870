"""The system under test as LoadGen sees it: queries in, first tokens and completions out."""

import threading
from collections.abc import Callable

from sut import loadgen
from sut.settings import Scenario

OnError = Callable[[BaseException], None]


class SUT:
    """Between LoadGen's thread and the dispatcher's."""

    def __init__(self, scenario: Scenario, submit: loadgen.Issue, on_error: OnError) -> None:
        """Connect the two.

        Args:
            scenario: Decides whether first tokens are reported: Offline has no TTFT.
            submit: Takes the ids and sample indices of a query; thread-safe, does not wait.
            on_error: Takes what `submit` raised; ends the run.
        """
        self.reports_first_tokens = scenario is not Scenario.OFFLINE
        self._submit = submit
        self._on_error = on_error
        self._reporter: int | None = None
        self._closed = False

    def issue_queries(self, ids: list[int], samples: list[int]) -> None:
        """Hand one query on.

        Thread: LoadGen's; never raises, because LoadGen would take the process down with it.
        """
        try:
            self._submit(ids, samples)
        except BaseException as error:  # noqa: BLE001 - an edge: what leaves here crashes the process
            self._on_error(error)

    def first_tokens(self, ids: list[int], addresses: list[int]) -> None:
        """Report the first token of requests, once each.

        Args:
            ids: LoadGen's ids.
            addresses: Where each first token lies.

        Thread: dispatcher; does not block.
        """
        self._check()
        loadgen.first_token_complete(ids, addresses, [1] * len(ids))

    def complete(self, ids: list[int], addresses: list[int], counts: list[int]) -> None:
        """Report finished requests with all their tokens.

        Args:
            ids: LoadGen's ids.
            addresses: Where each request's tokens lie.
            counts: Tokens of each request, the first one included; LoadGen counts 0 and 1 as errors.

        Thread: dispatcher; does not block.
        """
        self._check()
        if self.reports_first_tokens and 0 in counts:
            # LoadGen crashes on a completion that no first-token call preceded (loadgen/logging.cc:296).
            empty = [row for row, count in enumerate(counts) if count == 0]
            loadgen.first_token_complete(
                [ids[row] for row in empty], [addresses[row] for row in empty], [0] * len(empty)
            )
        loadgen.query_samples_complete(ids, addresses, counts)

    def close(self) -> None:
        """Forbid reports: StartTest has returned and LoadGen's ids dangle."""
        self._closed = True

    def _check(self) -> None:
        thread = threading.get_ident()
        if self._reporter is None:
            self._reporter = thread
        if self._reporter != thread:
            raise RuntimeError("first tokens and completions must come from one thread")
        if self._closed:
            raise RuntimeError("a report after StartTest returned")
