"""The same program as `tokenfleet local`: start local workers, run LoadGen against them, stop them.

python run_mlperf.py --backend vllm --scenario offline --input-file data/accuracy_eval_tokenized.pkl
"""

import sys

from tokenfleet.local_run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
