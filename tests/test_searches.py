"""Tests that search for a counterexample with hypothesis."""

from hypothesis import given, strategies


def test_a_search_tries_the_same_examples_each_time() -> None:
    """Two searches over all integers, as two runs of the tests make them: no run fails by chance."""
    tried: list[int] = []

    def search() -> list[int]:
        tried.clear()

        @given(strategies.integers())
        def notes(number: int) -> None:
            tried.append(number)

        notes()
        return list(tried)

    assert search() == search()
