"""Score rows in vLLM's offline engine and print what it lists; run by the interpreter that has it.

Its packages stand first; what only this package needs comes from the folder that is named last.
"""

import json
import sys


def main(model: str, rows: str, packages: str) -> None:
    sys.path.append(packages)
    import torch
    from transformers import AutoTokenizer

    from mashbill.teachers.protocol import Inputs
    from mashbill.teachers.vllm_offline import OfflineVllm
    from mashbill.teachers.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_tokenizer(AutoTokenizer.from_pretrained(model))
    options = {"enforce_eager": True, "max_model_len": 512, "max_num_seqs": 4, "disable_log_stats": True}
    teacher = OfflineVllm("t", model, vocabulary, top_k=64, options=options)
    said = []
    for _ in range(2):  # twice: what is cached would show
        for ids in json.loads(rows):
            tokens, labels = torch.tensor([ids[:-1]]), torch.tensor([ids[1:]])
            scored = teacher.score(Inputs(("row",), ("",), tokens, labels, torch.ones_like(labels, dtype=torch.bool)))
            topk = scored.distribution
            numbers = {"ids": topk.ids, "logprobs": topk.logprobs, "log_tail": topk.log_tail}
            numbers |= {"label_logprob": scored.statistics.label_logprob, "entropy": scored.statistics.entropy}
            numbers |= {"entropy_low": scored.statistics.entropy_low}
            said.append({name: tensor[0].tolist() for name, tensor in numbers.items()})
    print("SAID " + json.dumps({"engine": dict(teacher.identity())["engine"], "said": said}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
