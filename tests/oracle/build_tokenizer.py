"""Tokenizers of Hugging Face's library, built without Octavo: one from a GGUF file's vocabulary and merges, others
trained here on files of this machine, in the style of each family that Octavo reads."""

import json

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

import build_sentencepiece
import text_lines

# The pre-tokenizers of Llama 3 (and DBRX) and of Qwen2 differ in how many digits go together.
SPLIT_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
SPLIT_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = SPLIT_HEAD + r"\p{N}{1,3}" + SPLIT_TAIL
QWEN2_SPLIT = SPLIT_HEAD + r"\p{N}" + SPLIT_TAIL

CONTROL_TYPE, USER_TYPE = 3, 4


def from_gguf(path):
    """SmolLM2's: digits one by one, GPT-2's pattern, control tokens special."""
    import gguf  # imported here: training needs only tokenizers

    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types):
        if kind == CONTROL_TYPE:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False)])
        elif kind == USER_TYPE:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    return tokenizer


def trained(size, lines, steps, special, alphabet=None, unknown=None, fuse=False, drop_merges=0, ignore_merges=False):
    """BPE trained on `lines`; every `drop_merges`-th merge is left out, so that some tokens cannot be reached."""
    base = Tokenizer(models.BPE(unk_token=unknown, fuse_unk=fuse))
    base.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    first = [unknown] if unknown else []
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=first, max_token_length=24,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet)
    base.train_from_iterator(lines, trainer)
    model = json.loads(base.to_str())["model"]
    merges = [tuple(merge) for i, merge in enumerate(model["merges"]) if not drop_merges or i % drop_merges]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, unk_token=unknown, fuse_unk=fuse,
                                     ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = base.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return tokenizer


def bytes_after(step):
    return [step, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def llama3_style(size, lines):
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = trained(size, lines, bytes_after(pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")), special,
                        drop_merges=9, ignore_merges=True)
    begin = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[begin])])
    return tokenizer


def qwen2_style(size, lines):
    """The only one that normalizes."""
    tokenizer = trained(size, lines, bytes_after(pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")),
                        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def dbrx_style(size, lines):
    """Kept are the matches; and added tokens of every kind."""
    tokenizer = trained(size, lines, bytes_after(pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "removed", invert=True)),
                        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_end|>!"])
    tokenizer.add_tokens([AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True),
                          AddedToken("<both>", lstrip=True, rstrip=True, normalized=False),
                          AddedToken("word", single_word=True), AddedToken("été", single_word=True),
                          AddedToken("two words"), AddedToken("<|im"), AddedToken("ĠĊ")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<|im_start|>", "<|im_end|>")])
    return tokenizer


def smollm2_style(size, lines):
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return trained(size, lines, steps, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def gpt2_style(size, lines):
    """ByteLevel alone, with a space put first; bytes without a token become the unknown one."""
    letters = [c for c in pre_tokenizers.ByteLevel.alphabet() if c < "\u00c0" or c > "\u0100"]
    steps = [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    return trained(size, [line for line in lines if line.isascii()], steps, ["<|endoftext|>"], alphabet=letters,
                   unknown="<unk>", fuse=True)


def no_unknown_style(size, lines):
    """Bytes without a token vanish."""
    letters = [c for c in pre_tokenizers.ByteLevel.alphabet() if c < "\u00c0" or c > "\u0100"]
    return trained(size, [line for line in lines if line.isascii()], [pre_tokenizers.ByteLevel(add_prefix_space=False)],
                   ["<|endoftext|>"], alphabet=letters)


STYLES = {"llama3": llama3_style, "qwen2": qwen2_style, "dbrx": dbrx_style, "smollm2": smollm2_style,
          "gpt2": gpt2_style, "no_unknown": no_unknown_style, **build_sentencepiece.STYLES}


def for_decoding(tokenizer):
    """The same, but tokens that match in normalized text decode as they are written and are special if they are said to
    be: Hugging Face 0.23 gives the text that was matched, and no longer takes them for special."""
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["normalized"] = False
    return Tokenizer.from_str(json.dumps(content))


def traps(style):
    """Texts to strew in beside the added tokens."""
    return build_sentencepiece.TRAPS if style in build_sentencepiece.STYLES else []


def build(style, size=2000, seed=7):
    return STYLES[style](size, text_lines.lines(3000, seed))
