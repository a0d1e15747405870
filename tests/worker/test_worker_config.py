"""The worker's own flags, and what becomes of all others."""

import re
from pathlib import Path

import pytest

from worker.__main__ import make_service
from worker.config import ENGINE_FLAGS, BadInput, EngineKind, WorkerConfig, build_parser, parse
from worker.engines.scripted import counting, simulated


def test_defaults_are_the_dataclass() -> None:
    """Without flags the worker serves vLLM on the loopback address, and nothing is left for the engine."""
    config, model, engine_argv = parse([])
    assert (WorkerConfig(), None, []) == (config, model, engine_argv)
    assert (config.engine, config.host) == (EngineKind.VLLM, "127.0.0.1")


def test_every_own_flag_is_read() -> None:
    """Each of the daemon's flags reaches its field with its type."""
    argv = "--engine counting --host 0.0.0.0 --port 65535 --frame-hold-ms 0 --drain-timeout-s 1.5 --model m"
    argv += " --tls-cert c.pem --tls-key k.pem --tls-ca ca.pem --run-token-file token"
    argv += " --coordinator-timeout-s 86400"
    expected = WorkerConfig(
        engine=EngineKind.COUNTING,
        host="0.0.0.0",
        port=65535,
        frame_hold_ms=0.0,
        drain_timeout_s=1.5,
        tls_cert=Path("c.pem"),
        tls_key=Path("k.pem"),
        tls_ca=Path("ca.pem"),
        run_token_file=Path("token"),
        coordinator_timeout_s=86_400.0,
    )
    assert (expected, "m", []) == parse(argv.split())


@pytest.mark.parametrize(
    "argv",
    ["--host 127.0.0.9", "--host localhost", "--host [::1]", "--host 0.0.0.0 --insecure", "--insecure"],
)
def test_plaintext_stays_on_loopback_unless_asked(argv: str) -> None:
    """Every loopback address is served in plaintext, any other one with --insecure."""
    config, _, _ = parse(argv.split())
    assert None is config.tls_cert
    assert config.insecure == ("--insecure" in argv)


def test_other_flags_go_to_the_engine_untouched() -> None:
    """Flags that are not the daemon's keep order and spelling, abbreviations of its own flags included."""
    theirs = [
        "--max-num-seqs",
        "8",
        "--speculative-config",
        '{"a": 1}',
        "--tensor-parallel-size=8",
        "--por",
        "5",
    ]
    config, _, engine_argv = parse(["--port", "7", *theirs, "--engine", "counting"])
    assert theirs == engine_argv
    assert (config.port, config.engine) == (7, EngineKind.COUNTING)


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--port", "0"),
        ("--port", "65536"),
        ("--port", "-1"),
        ("--port", "http"),
        ("--frame-hold-ms", "-0.5"),
        ("--frame-hold-ms", "1000.5"),
        ("--frame-hold-ms", "nan"),
        ("--drain-timeout-s", "-1"),
        ("--drain-timeout-s", "nan"),
        ("--coordinator-timeout-s", "1.9"),
        ("--coordinator-timeout-s", "inf"),
        ("--engine", "triton"),
    ],
)
def test_a_bad_value_is_named_with_its_flag(flag: str, value: str) -> None:
    """A value out of bounds or of the wrong type is refused in one line with flag and value."""
    with pytest.raises(ValueError) as caught:
        parse([f"{flag}={value}"])
    message = str(caught.value)
    assert flag in message
    assert value in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "argv, named",
    [
        ("--engine counting --bogus 3", "--bogus"),
        ("--engine counting --step-ms -1", "--step-ms: -1.0 is below 0"),
        ("--engine counting --max-num-seqs 0", "--max-num-seqs: 0 is below 1"),
        ("--engine counting --max-num 4", "--max-num"),
        ("--engine counting --port 0", "--port: 0"),
        ("--engine vllm", "--model: missing"),
    ],
)
def test_what_no_one_knows_is_bad_input(argv: str, named: str) -> None:
    """A flag that neither daemon nor engine knows, or a bad value of one, is BadInput of one line."""
    with pytest.raises(BadInput) as caught:
        make_service(argv.split())
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_tells_of_every_flag() -> None:
    """--help says what each flag means, its default where there is one, and every flag of our engines."""
    parser = build_parser()
    assert [] == [action.option_strings for action in parser._actions if not action.help]
    shown = {action.dest: action.help or "" for action in parser._actions}
    ends = {"engine": "vllm", "host": "127.0.0.1", "port": "50051", "replicas": "1", "frame_hold_ms": "20.0"}
    ends |= {"drain_timeout_s": "30.0", "coordinator_timeout_s": "15.0"}
    assert [] == [name for name, end in ends.items() if f"(default {end}" not in shown[name]]
    assert [] == [name for name, text in shown.items() if "None" in text]
    sentences = dict(part.split(": ", 1) for part in re.split(r"\n  (?=\w)", ENGINE_FLAGS) if ": " in part)
    for name, module in {"counting": counting, "simulated": simulated}.items():
        flags = {action.option_strings[-1] for action in module.build_parser()._actions} - {"--help"}
        assert flags == set(re.findall("--[a-z-]+[a-z]", sentences[name]))
    assert "--step-ms (default 1.0; 0 or more)" in sentences["counting"]
    assert "--answers (required)" in sentences["replay"]
