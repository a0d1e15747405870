"""Program: a counting worker that reports one GPU and the use of a KV cache, on machines without a GPU."""

import sys
from types import SimpleNamespace

from worker import __main__ as worker
from worker.engine_protocol import NO_KERNELS, Load
from worker.engines.scripted.counting import CountingEngine


class NVMLError(Exception):
    """As in NVIDIA's binding."""


class LoadedEngine(CountingEngine):
    """A counting engine whose KV cache is a quarter full."""

    def load(self) -> Load:
        """Count the requests."""
        return super().load()._replace(kv_use=0.25, compiled=NO_KERNELS)


def binding() -> SimpleNamespace:
    """Stand in for NVIDIA's binding, with one device as an H200 reports itself."""
    return SimpleNamespace(
        NVMLError=NVMLError,
        NVMLError_LibraryNotFound=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlMemory_v2=2,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda _: "GPU-0",
        nvmlDeviceGetPowerUsage=lambda _: 612_000,
        nvmlDeviceGetMemoryInfo=lambda *_: SimpleNamespace(used=120 << 30, total=141 << 30),
        nvmlDeviceGetClockInfo=lambda *_: 1_980,
        nvmlDeviceGetTemperature=lambda *_: 61,
    )


if __name__ == "__main__":
    sys.modules["pynvml"] = binding()  # type: ignore[assignment]
    from worker.engines.scripted import counting

    counting.CountingEngine = LoadedEngine  # type: ignore[misc]
    sys.exit(worker.main(sys.argv[1:]))
