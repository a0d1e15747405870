"""`python -m bench.greedy`: what vLLM's own LLM.generate answers, in a process of its own.

A worker of the same model must give the same tokens: greedy, float32, no two requests of one cache.
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd


def main(argv: list[str]) -> int:
    """Answer a data set's prompts and write the answers, a JSON list of lists of token ids."""
    parser = argparse.ArgumentParser(prog="python -m bench.greedy", allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint directory")
    parser.add_argument("--input-file", type=Path, required=True, help="parquet with a column tok_input")
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json")
    args = parser.parse_args(argv)
    prompts = [list(map(int, prompt)) for prompt in pd.read_parquet(args.input_file)["tok_input"]]
    answers = _generate(args.model, prompts, args.max_model_len, args.max_new_tokens)
    args.output.write_text(json.dumps(answers), encoding="utf-8")
    return 0


def _generate(
    model: Path, prompts: list[list[int]], max_model_len: int, max_new_tokens: int
) -> list[list[int]]:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    stop_ids = json.loads((model / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    llm = LLM(
        model=str(model),
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=max_model_len,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=1 << 30,
    )
    params = SamplingParams(
        temperature=0, max_tokens=max_new_tokens, stop_token_ids=stop_ids, detokenize=False
    )
    outputs = llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts], params, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
