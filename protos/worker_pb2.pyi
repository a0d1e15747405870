from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]

class WorkerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WORKER_STATE_UNSPECIFIED: _ClassVar[WorkerState]
    WORKER_STATE_LOADING: _ClassVar[WorkerState]
    WORKER_STATE_READY: _ClassVar[WorkerState]
    WORKER_STATE_DRAINING: _ClassVar[WorkerState]
    WORKER_STATE_FAILED: _ClassVar[WorkerState]
    WORKER_STATE_STARTING: _ClassVar[WorkerState]
    WORKER_STATE_DEGRADED: _ClassVar[WorkerState]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
WORKER_STATE_UNSPECIFIED: WorkerState
WORKER_STATE_LOADING: WorkerState
WORKER_STATE_READY: WorkerState
WORKER_STATE_DRAINING: WorkerState
WORKER_STATE_FAILED: WorkerState
WORKER_STATE_STARTING: WorkerState
WORKER_STATE_DEGRADED: WorkerState

class ToWorker(_message.Message):
    __slots__ = ("open", "submit", "cancel", "ping")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    open: Open
    submit: Submit
    cancel: Cancel
    ping: Ping
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ...) -> None: ...

class FromWorker(_message.Message):
    __slots__ = ("opened", "tokens", "pong")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    tokens: Tokens
    pong: Pong
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., tokens: _Optional[_Union[Tokens, _Mapping]] = ..., pong: _Optional[_Union[Pong, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("protocol_version", "run_id", "spec")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    run_id: str
    spec: RunSpec
    def __init__(self, protocol_version: _Optional[int] = ..., run_id: _Optional[str] = ..., spec: _Optional[_Union[RunSpec, _Mapping]] = ...) -> None: ...

class RunSpec(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "max_new_tokens", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("packed", "digest")
    PACKED_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    packed: bytes
    digest: int
    def __init__(self, packed: _Optional[bytes] = ..., digest: _Optional[int] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: bytes
    def __init__(self, requests: _Optional[bytes] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("info", "spec_hash", "run_id")
    INFO_FIELD_NUMBER: _ClassVar[int]
    SPEC_HASH_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    info: WorkerInfo
    spec_hash: str
    run_id: str
    def __init__(self, info: _Optional[_Union[WorkerInfo, _Mapping]] = ..., spec_hash: _Optional[str] = ..., run_id: _Optional[str] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("packed", "digest", "load")
    PACKED_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    packed: bytes
    digest: int
    load: EngineLoad
    def __init__(self, packed: _Optional[bytes] = ..., digest: _Optional[int] = ..., load: _Optional[_Union[EngineLoad, _Mapping]] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("nonce", "worker_ns", "produced_tokens", "steps", "load", "decode_rows", "decode_tokens")
    NONCE_FIELD_NUMBER: _ClassVar[int]
    WORKER_NS_FIELD_NUMBER: _ClassVar[int]
    PRODUCED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    DECODE_ROWS_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    worker_ns: int
    produced_tokens: int
    steps: int
    load: EngineLoad
    decode_rows: int
    decode_tokens: int
    def __init__(self, nonce: _Optional[int] = ..., worker_ns: _Optional[int] = ..., produced_tokens: _Optional[int] = ..., steps: _Optional[int] = ..., load: _Optional[_Union[EngineLoad, _Mapping]] = ..., decode_rows: _Optional[int] = ..., decode_tokens: _Optional[int] = ...) -> None: ...

class EngineLoad(_message.Message):
    __slots__ = ("running", "waiting", "kv_use", "gpus", "compiled")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    KV_USE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    COMPILED_FIELD_NUMBER: _ClassVar[int]
    running: int
    waiting: int
    kv_use: float
    gpus: _containers.RepeatedCompositeFieldContainer[GpuLoad]
    compiled: CompiledKernels
    def __init__(self, running: _Optional[int] = ..., waiting: _Optional[int] = ..., kv_use: _Optional[float] = ..., gpus: _Optional[_Iterable[_Union[GpuLoad, _Mapping]]] = ..., compiled: _Optional[_Union[CompiledKernels, _Mapping]] = ...) -> None: ...

class CompiledKernels(_message.Message):
    __slots__ = ("num", "num_untimed", "ms", "names")
    NUM_FIELD_NUMBER: _ClassVar[int]
    NUM_UNTIMED_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    num: int
    num_untimed: int
    ms: int
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, num: _Optional[int] = ..., num_untimed: _Optional[int] = ..., ms: _Optional[int] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class GpuLoad(_message.Message):
    __slots__ = ("index", "power_w", "sm_clock_mhz", "used_memory_bytes", "temperature_c")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    SM_CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    USED_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    index: int
    power_w: float
    sm_clock_mhz: int
    used_memory_bytes: int
    temperature_c: int
    def __init__(self, index: _Optional[int] = ..., power_w: _Optional[float] = ..., sm_clock_mhz: _Optional[int] = ..., used_memory_bytes: _Optional[int] = ..., temperature_c: _Optional[int] = ...) -> None: ...

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("protocol_version", "instance_id", "state", "engine", "engine_version", "model", "model_hash", "vocab_size", "max_model_len", "max_num_seqs", "tensor_parallel_size", "stop_token_ids", "hostname", "pid", "engine_args", "coordinator_timeout_s", "replicas", "engine_facts", "engine_hash", "execution_facts", "weights_sha256", "warnings")
    class EngineArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EngineFactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ExecutionFactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_HASH_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_SEQS_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PARALLEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    ENGINE_ARGS_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FACTS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_HASH_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_FACTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    instance_id: str
    state: WorkerState
    engine: str
    engine_version: str
    model: str
    model_hash: str
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    tensor_parallel_size: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    hostname: str
    pid: int
    engine_args: _containers.ScalarMap[str, str]
    coordinator_timeout_s: float
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    engine_facts: _containers.ScalarMap[str, str]
    engine_hash: str
    execution_facts: _containers.ScalarMap[str, str]
    weights_sha256: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol_version: _Optional[int] = ..., instance_id: _Optional[str] = ..., state: _Optional[_Union[WorkerState, str]] = ..., engine: _Optional[str] = ..., engine_version: _Optional[str] = ..., model: _Optional[str] = ..., model_hash: _Optional[str] = ..., vocab_size: _Optional[int] = ..., max_model_len: _Optional[int] = ..., max_num_seqs: _Optional[int] = ..., tensor_parallel_size: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., hostname: _Optional[str] = ..., pid: _Optional[int] = ..., engine_args: _Optional[_Mapping[str, str]] = ..., coordinator_timeout_s: _Optional[float] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., engine_facts: _Optional[_Mapping[str, str]] = ..., engine_hash: _Optional[str] = ..., execution_facts: _Optional[_Mapping[str, str]] = ..., weights_sha256: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("port", "state", "reason", "restarts", "pid", "devices", "cores")
    PORT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    port: int
    state: WorkerState
    reason: str
    restarts: int
    pid: int
    devices: _containers.RepeatedScalarFieldContainer[str]
    cores: str
    def __init__(self, port: _Optional[int] = ..., state: _Optional[_Union[WorkerState, str]] = ..., reason: _Optional[str] = ..., restarts: _Optional[int] = ..., pid: _Optional[int] = ..., devices: _Optional[_Iterable[str]] = ..., cores: _Optional[str] = ...) -> None: ...

class GetLoadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerLoad(_message.Message):
    __slots__ = ("run_id", "running", "waiting", "produced_tokens", "frames", "kv_use", "gpus")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PRODUCED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    KV_USE_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    running: int
    waiting: int
    produced_tokens: int
    frames: int
    kv_use: float
    gpus: _containers.RepeatedCompositeFieldContainer[GpuLoad]
    def __init__(self, run_id: _Optional[str] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., produced_tokens: _Optional[int] = ..., frames: _Optional[int] = ..., kv_use: _Optional[float] = ..., gpus: _Optional[_Iterable[_Union[GpuLoad, _Mapping]]] = ...) -> None: ...

class GetHostRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HostInfo(_message.Message):
    __slots__ = ("hostname", "received_ns", "answered_ns", "wall_ns", "python_version", "package_versions", "num_cores", "num_usable_cores", "load_average", "memory_bytes", "available_memory_bytes", "soft_open_files", "hard_open_files", "disks", "accelerators", "environment", "not_told", "commit", "hardware", "nodes", "engine_hosts", "cpu_quota_cores")
    class PackageVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class HardwareEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_NS_FIELD_NUMBER: _ClassVar[int]
    WALL_NS_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_CORES_FIELD_NUMBER: _ClassVar[int]
    NUM_USABLE_CORES_FIELD_NUMBER: _ClassVar[int]
    LOAD_AVERAGE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOFT_OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    HARD_OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    DISKS_FIELD_NUMBER: _ClassVar[int]
    ACCELERATORS_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    NOT_TOLD_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    HARDWARE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_HOSTS_FIELD_NUMBER: _ClassVar[int]
    CPU_QUOTA_CORES_FIELD_NUMBER: _ClassVar[int]
    hostname: str
    received_ns: int
    answered_ns: int
    wall_ns: int
    python_version: str
    package_versions: _containers.ScalarMap[str, str]
    num_cores: int
    num_usable_cores: int
    load_average: float
    memory_bytes: int
    available_memory_bytes: int
    soft_open_files: int
    hard_open_files: int
    disks: _containers.RepeatedCompositeFieldContainer[Disk]
    accelerators: _containers.RepeatedCompositeFieldContainer[Accelerator]
    environment: _containers.ScalarMap[str, str]
    not_told: _containers.RepeatedScalarFieldContainer[str]
    commit: str
    hardware: _containers.ScalarMap[str, str]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    engine_hosts: _containers.RepeatedCompositeFieldContainer[HostInfo]
    cpu_quota_cores: float
    def __init__(self, hostname: _Optional[str] = ..., received_ns: _Optional[int] = ..., answered_ns: _Optional[int] = ..., wall_ns: _Optional[int] = ..., python_version: _Optional[str] = ..., package_versions: _Optional[_Mapping[str, str]] = ..., num_cores: _Optional[int] = ..., num_usable_cores: _Optional[int] = ..., load_average: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., available_memory_bytes: _Optional[int] = ..., soft_open_files: _Optional[int] = ..., hard_open_files: _Optional[int] = ..., disks: _Optional[_Iterable[_Union[Disk, _Mapping]]] = ..., accelerators: _Optional[_Iterable[_Union[Accelerator, _Mapping]]] = ..., environment: _Optional[_Mapping[str, str]] = ..., not_told: _Optional[_Iterable[str]] = ..., commit: _Optional[str] = ..., hardware: _Optional[_Mapping[str, str]] = ..., nodes: _Optional[_Iterable[str]] = ..., engine_hosts: _Optional[_Iterable[_Union[HostInfo, _Mapping]]] = ..., cpu_quota_cores: _Optional[float] = ...) -> None: ...

class Disk(_message.Message):
    __slots__ = ("purpose", "path", "free_bytes")
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    purpose: str
    path: str
    free_bytes: int
    def __init__(self, purpose: _Optional[str] = ..., path: _Optional[str] = ..., free_bytes: _Optional[int] = ...) -> None: ...

class Accelerator(_message.Message):
    __slots__ = ("index", "uuid", "name", "driver_version", "memory_bytes", "used_memory_bytes", "own_memory_bytes", "ecc", "uncorrected_errors", "sm_clock_mhz", "max_sm_clock_mhz", "temperature_c", "clock_reasons", "clock_reasons_known")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DRIVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    OWN_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ECC_FIELD_NUMBER: _ClassVar[int]
    UNCORRECTED_ERRORS_FIELD_NUMBER: _ClassVar[int]
    SM_CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    MAX_SM_CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    CLOCK_REASONS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_REASONS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    index: int
    uuid: str
    name: str
    driver_version: str
    memory_bytes: int
    used_memory_bytes: int
    own_memory_bytes: int
    ecc: bool
    uncorrected_errors: int
    sm_clock_mhz: int
    max_sm_clock_mhz: int
    temperature_c: int
    clock_reasons: _containers.RepeatedScalarFieldContainer[str]
    clock_reasons_known: bool
    def __init__(self, index: _Optional[int] = ..., uuid: _Optional[str] = ..., name: _Optional[str] = ..., driver_version: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., used_memory_bytes: _Optional[int] = ..., own_memory_bytes: _Optional[int] = ..., ecc: _Optional[bool] = ..., uncorrected_errors: _Optional[int] = ..., sm_clock_mhz: _Optional[int] = ..., max_sm_clock_mhz: _Optional[int] = ..., temperature_c: _Optional[int] = ..., clock_reasons: _Optional[_Iterable[str]] = ..., clock_reasons_known: _Optional[bool] = ...) -> None: ...
