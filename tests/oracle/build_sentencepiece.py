"""Tokenizers over characters, in the style of SentencePiece, as Hugging Face's library runs them: trained here, with the
normalizers, pre-tokenizers and decoders that the files of Llama 2 and Mixtral have, and rarer settings of the same."""

import codecs
import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

MARK = "\u2581"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
# What such files may trip over; strewn into the texts of these styles.
TRAPS = [MARK, MARK + MARK, f"a{MARK}b", "<0x0A>", "<0xE6>", "<s>", f"{MARK}<s>", "<unk>", "   ", "\n\n", "\t\t"]

codecs.register_error("one for each byte", lambda error: ("\ufffd" * (error.end - error.start), error.end))


def trained_model(size, lines, bytes_kept=256, **flags):
    """BPE over characters with `bytes_kept` byte tokens; rare characters are in no token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always"), pre_tokenizers.Digits(individual_digits=True)])
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, limit_alphabet=120, max_token_length=16,
                                  special_tokens=["<unk>", "<s>", "</s>", *BYTES[:bytes_kept]])
    # Runs of spaces are words of their own.
    tokenizer.train_from_iterator([*lines, *[" " * n for n in (2, 4, 8, 16)] * 50], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    settings = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, **flags}
    return models.BPE(model["vocab"], [tuple(merge) for merge in model["merges"]], **settings)


def finished(model, strip=1):
    tokenizer = Tokenizer(model)
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", strip, 0)] if strip else []))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def llama2_style(size, lines):
    """The old files: a mark before every text, by normalizers."""
    tokenizer = finished(trained_model(size, lines))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return tokenizer


def mixtral_style(size, lines):
    """The new files: a mark before the first text only; control tokens."""
    tokenizer = finished(trained_model(size, lines))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="first", split=False)
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    return tokenizer


def first_llama_style(size, lines):
    """Special tokens that are normalized (so the mark is a part of them), and added ones of every kind."""
    tokenizer = finished(trained_model(size, lines))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("<left>", lstrip=True, normalized=False), AddedToken("two words"),
                          AddedToken("<right>", rstrip=True), AddedToken("word", single_word=True, normalized=False)])
    return tokenizer


def always_style(size, lines):
    """Pieces at every mark, whole tokens first, no bytes: unknown characters are joined."""
    tokenizer = finished(trained_model(size, lines, bytes_kept=0, byte_fallback=False, ignore_merges=True), strip=0)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always", split=True)
    tokenizer.add_special_tokens([AddedToken("<s>", normalized=False)])
    return tokenizer


def never_style(size, lines):
    """No mark in front, NFKC, and tokens for half of the bytes: the rest is unknown, each by itself."""
    tokenizer = finished(trained_model(size, lines, bytes_kept=0xC8, fuse_unk=False), strip=2)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="never", split=False)
    tokenizer.add_special_tokens([AddedToken("<s>", normalized=False)])
    tokenizer.add_tokens([AddedToken("ﬁ"), AddedToken("①②", normalized=False)])
    return tokenizer


STYLES = {"llama2": llama2_style, "mixtral": mixtral_style, "first_llama": first_llama_style, "always": always_style,
          "never": never_style}


def text_of_broken_bytes(oracle, ids, skip_special):
    """None if every run of byte tokens among `ids` is UTF-8. Otherwise the text with the characters that are whole,
    which SentencePiece keeps too and Hugging Face gives up."""
    special = {t.content for t in oracle.get_added_tokens_decoder().values() if t.special}
    tokens = [token for token in map(oracle.id_to_token, ids)
              if token is not None and not (skip_special and token in special)]
    runs, whole = [b""], []
    for token in tokens:
        if token in BYTES:
            runs[-1] += bytes([BYTES.index(token)])
            whole.append(bytes([BYTES.index(token)]))
        else:
            runs.append(b"")
            whole.append(token.replace(MARK, " ").encode())
    if all(run.decode("utf-8", "ignore").encode() == run for run in runs):
        return None
    text = b"".join(whole).decode("utf-8", "one for each byte")
    for step in json.loads(oracle.to_str())["decoder"]["decoders"]:
        for _ in range(step["start"] if step["type"] == "Strip" else 0):
            text = text.removeprefix(" ")
    return text
