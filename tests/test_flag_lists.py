"""docs/configuration.md lists every flag as it is declared."""

from tests.flag_lists import LISTS, PAGE, filled, named


def test_the_page_lists_every_flag_as_declared() -> None:
    """Default, bound and help on the page are those of the field; `python -m tests.flag_lists` writes it."""
    page = PAGE.read_text(encoding="utf-8")
    assert list(LISTS) == named(page)
    assert filled(page) == page
    assert "- `--port PORT` (default 50051; 1..65535): TCP port;" in page
    assert "- `--input-file FILE` (required): parquet" in page
    assert "- `--target-qps QPS` (above 0): LoadGen's target_qps" in page
