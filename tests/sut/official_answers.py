"""Run in a process of its own: what the official evaluator extracts from texts given on stdin as JSON."""

import json
import sys

sys.path.insert(0, sys.argv[1])
import eval_accuracy as official

texts = json.load(sys.stdin)
found = [
    (
        official.parse_multiple_choice(text, "D"),
        official.parse_aime_answer(text),
        official.parse_code(text),
    )
    for text in texts
]
json.dump(found, sys.stdout)
