"""Files of a profile: figures as JSON, the same as text, and the traces under names of the race."""

import json
from pathlib import Path
from typing import Any

from bench.gpu.race.expert_sizes import ExpertSizes, read_expert_sizes
from bench.gpu.race.profile_text import profile_text
from bench.gpu.race.step_log import WITH_PREFILL, WITHOUT_PREFILL
from bench.gpu.race.step_profile import profile_figures
from bench.gpu.race.step_trace import read_steps

Figures = dict[str, Any]
_PRINTED_SHARE = 0.01
"""Share of the time from which a kernel is printed; the files have all of them."""


def write_profile(run: dict[str, Any], logs: Path, journal: Path, model: Path) -> str:
    """Write profile-NAME.json and profile-NAME.txt, and return the text with the longest kernels.

    Args:
        run: A run with recordings, at least one for each number of requests that was reached.
        logs: Directory of the traces.
        journal: Directory for both files.
        model: The checkpoint.

    Raises:
        RuntimeError: Nothing was recorded, or a trace cannot be read.
    """
    name = run["name"]
    if not run["recordings"]:
        raise RuntimeError(f"no step of {name} was recorded")
    try:
        sizes = read_expert_sizes(model)
        profiles = [
            _profile(window, recording, logs, (name, sizes))
            for window, recording in zip(run["windows"], run["recordings"], strict=False)
        ]
    except (OSError, ValueError) as error:
        raise RuntimeError(f"{name}: {error}") from error
    document = {key: value for key, value in run.items() if key != "recordings"} | {"profiles": profiles}
    (journal / f"profile-{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = profile_text(name, profiles)
    (journal / f"profile-{name}.txt").write_text(text + "\n", encoding="utf-8")
    return profile_text(name, profiles, _PRINTED_SHARE)


def _profile(
    window: Figures, recording: Figures, logs: Path, model: tuple[str, ExpertSizes | None]
) -> Figures:
    name, sizes = model
    written: str = recording["trace"]
    trace = f"{name}-{recording['rows']}{written[written.index('.pt.trace.json') :]}"
    (logs / written).replace(logs / trace)
    return {
        "rows": recording["rows"],
        "trace": f"{logs.name}/{trace}",
        "step_ms_before": {kind: window[f"step_ms_{kind}"] for kind in (WITHOUT_PREFILL, WITH_PREFILL)},
        "step_ms_recording": recording["step_ms"],
        **profile_figures(read_steps(logs / trace), sizes),
    }
