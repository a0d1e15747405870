"""--help of every program of the repository: exit code 0, a usage line, and the facts of each flag."""

import re

import pytest

from tests.forked import completed, main_of_command
from tests.help_programs import CHILDREN, FOREIGN, modules, programs


def test_the_programs_that_no_person_starts_exist() -> None:
    """Their names are those of modules with a guard."""
    assert modules() and (CHILDREN | FOREIGN) - set(modules()) == set()


@pytest.mark.parametrize("words", programs(), ids=" ".join)
def test_help_of_a_program(words: tuple[str, ...]) -> None:
    """Exit code 0 and no line on stderr; each flag has a sentence, and a required one says so."""
    ended = completed(main_of_command(words), ["--help"], COLUMNS="1000")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert ended.stdout.startswith("usage: "), ended.stdout[:200]
    usage, _, rest = ended.stdout.partition("\n\n")
    options = re.findall(r"^  (-.+?)(?:  +(\S.*))?$(?:\n {10,}(\S.*))?", rest, re.MULTILINE)
    texts = {names: text or following for names, text, following in options}
    assert [] == [names for names, text in texts.items() if not text]
    required = set(re.findall(r"(?<!\[)(?<!\| )(--[a-z][\w-]*)", usage)) - {"--help"}
    for names, text in texts.items():
        assert ("(required" in text) == bool(required & set(names.split())), names
        assert "None" not in text, names
