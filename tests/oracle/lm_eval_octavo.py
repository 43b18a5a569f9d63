"""Octavo as a model of EleutherAI's lm-eval, through `Tokenize` and `Score` alone.

Tasks of log likelihoods (multiple choice, rolling perplexity) run; those that generate are refused. `Score` does not tell whether
a continuation is what greedy decoding gives: `is_greedy` is always false, which only metrics of the kind of LAMBADA's accuracy use.

usage: python lm_eval_octavo.py --model octavo --model_args folder=DIR[,tensor_parallel=N] --tasks ... (all else as lm_eval)
Run with the environment of `install.sh VENV requirements_lm_eval.txt ...`; needs python3-grpcio. Environment: OCTAVO_BIN_DIR.
"""

import json
import pathlib
import subprocess

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

SERVED = pathlib.Path(__file__).with_name("served_scores.py")


@register_model("octavo")
class Octavo(TemplateLM):

    def __init__(self, folder, tensor_parallel=1, **_):
        super().__init__()
        folder = pathlib.Path(folder).resolve()  # workers know no working directory of ours
        self.server = subprocess.Popen(["/usr/bin/python3", str(SERVED), str(folder), str(tensor_parallel)], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.max_length = json.loads(self.server.stdout.readline())["max_model_len"]
        config = json.loads((folder / "config.json").read_text())
        self.bos, self.eos = config.get("bos_token_id"), config["eos_token_id"]

    def close(self):
        self.server.communicate()

    def ask(self, **question):
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    @property
    def eot_token_id(self):
        return self.eos[0] if isinstance(self.eos, list) else self.eos

    @property
    def prefix_token_id(self):
        return self.eot_token_id if self.bos is None else self.bos

    def tok_encode(self, string, add_special_tokens=None, **_):
        return self.ask(text=string)["ids"]

    def logprob(self, context, continuation):
        """Of all tokens of the continuation together; of what is too long for the model the beginning is left out."""
        ids = (context + continuation)[-self.max_length:]
        return sum(self.ask(ids=ids)["logprobs"][-len(continuation):])

    def _loglikelihood_tokens(self, requests, **_):
        return [(self.logprob(context, continuation), False) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        totals = []
        for request in requests:
            windows = utils.get_rolling_token_windows(self.tok_encode(request.args[0]), prefix_token=self.prefix_token_id,
                                                      max_seq_len=self.max_length - 1, context_len=1)
            totals.append(sum(self.logprob(*utils.make_disjoint_window(window)) for window in windows))
        return totals

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError("this adapter scores; it does not generate")


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate
    cli_evaluate()
