"""Make everything that the specialists' recipe reads: data files, a tokenizer, and one teacher a domain.

    python recipes/specialists/prepare.py            # about five minutes on two cores
    python recipes/specialists/prepare.py --smoke    # seconds; the same path, teachers that know little

Teachers are Llama models of 2.6 M parameters trained from scratch on their own domain alone. What is already there is
kept, so an interrupted run goes on where it stopped.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a teacher uses the cores better than threads do

import torch
from corpora import DOMAINS, documents, split_of
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LENGTH = 128  # tokens in a training block


def main() -> None:
    """Read the command line and make what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/specialists-input"))
    parser.add_argument("--teacher-tokens", type=int, default=800_000, help="tokens that each teacher is trained on")
    parser.add_argument("--student-tokens", type=int, default=160_000, help="tokens of each domain for the student")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.smoke:
        options.teacher_tokens, options.student_tokens = 8_000, 4_000
    options.output.mkdir(parents=True, exist_ok=True)
    corpora = {domain: list(documents(domain)) for domain in DOMAINS}
    tokenizer = make_tokenizer(options.output / "tokenizer", corpora)
    for split, n_tokens in (("train", options.student_tokens), ("scorecard", 8_000), ("eval", 24_000)):
        write_rows(options.output / f"{split}.jsonl", corpora, tokenizer, split, n_tokens)
    jobs = [(domain, corpora[domain], options.output, options.teacher_tokens) for domain in DOMAINS]
    with ProcessPoolExecutor(min(len(jobs), os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(train_teacher, *job) for job in jobs]:
            done.result()


def make_tokenizer(folder: Path, corpora: dict[str, list[tuple[str, str]]]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 4,096 entries on equal parts of the three domains' training documents."""
    if not (folder / "tokenizer.json").exists():
        texts = [text for rows in corpora.values() for _, text in _up_to(rows, "train", 2_000_000)]
        bpe = ByteLevelBPETokenizer()
        bpe.train_from_iterator(texts, vocab_size=4096, special_tokens=["<eos>"], show_progress=False)
        fast = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<eos>", pad_token="<eos>")
        fast.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def write_rows(path: Path, corpora, tokenizer, split: str, n_tokens: int) -> None:
    """Write documents of one split, each domain up to ``n_tokens`` tokens, as JSON lines with id, text and domain."""
    with path.open("w", encoding="utf-8") as file:
        for domain, rows in corpora.items():
            left = n_tokens
            for name, text in _shuffled(rows, split):
                if left <= 0:
                    break
                left -= len(tokenizer(text)["input_ids"])
                row = {"id": f"{domain}/{name}", "text": text, "domain": domain, "teacher_id": domain}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def train_teacher(domain: str, rows: list[tuple[str, str]], output: Path, n_tokens: int) -> None:
    """Train one causal language model from scratch on its domain and save it in transformers' form."""
    folder = output / f"teacher-{domain}"
    if (folder / "config.json").exists():
        return
    torch.set_num_threads(1)
    torch.manual_seed(DOMAINS.index(domain))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(output / "tokenizer")
    blocks = _blocks(tokenizer, [text for _, text in _shuffled(rows, "train")], n_tokens)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    batch = 16
    steps = max(1, len(blocks) // batch)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps)) + 0.02)
    )
    started = time.perf_counter()
    for step in range(steps):
        ids = blocks[step * batch : (step + 1) * batch]
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            print(f"teacher {domain}: step {step + 1}/{steps}  loss {loss.item():.3f} nats/token", flush=True)
    aside = output / f"teacher-{domain}.part"
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    aside.rename(folder)
    print(f"teacher {domain}: {steps * batch * LENGTH:,} tokens in {time.perf_counter() - started:.0f} s", flush=True)


def _blocks(tokenizer, texts: list[str], n_tokens: int) -> torch.Tensor:
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= n_tokens:
            break
    n_blocks = len(ids) // LENGTH
    blocks = torch.tensor(ids[: n_blocks * LENGTH]).view(n_blocks, LENGTH)
    return blocks[torch.randperm(n_blocks)]


def _shuffled(rows: list[tuple[str, str]], split: str) -> list[tuple[str, str]]:
    chosen = [row for row in rows if split_of(row[0]) == split]
    random.Random(0).shuffle(chosen)
    return chosen


def _up_to(rows: list[tuple[str, str]], split: str, n_characters: int):
    for row in _shuffled(rows, split):
        if n_characters <= 0:
            return
        n_characters -= len(row[1])
        yield row


if __name__ == "__main__":
    main()
