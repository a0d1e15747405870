"""`python -m bench.gpu.http_server FLAGS`: `vllm serve`; its engine core ends if this process is killed."""

import runpy


def main() -> None:
    """Run the module that `vllm serve` runs."""
    from worker.engines.vllm.core_process import ending_with_worker

    with ending_with_worker():
        runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
