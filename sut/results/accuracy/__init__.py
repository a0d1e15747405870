"""Score an accuracy log: the official verdicts, and a second opinion beside them."""
