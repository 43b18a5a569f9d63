"""Models of SentencePiece, trained here: files tokenizer.model as Llama 2 and Mixtral have them, and of other settings."""

import io

import sentencepiece

BASE = {"model_type": "bpe", "minloglevel": 2, "num_threads": 1, "character_coverage": 0.98}
# As in Llama 2: text as it is, digits one by one, runs of spaces, bytes for what is in no piece.
LLAMA = {**BASE, "byte_fallback": True, "split_digits": True, "allow_whitespace_only_pieces": True,
         "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
STYLES = {
    "spm_llama": LLAMA,
    # Pieces of the user, one inside another and one with a mark; control pieces, which text never becomes.
    "spm_user": {**LLAMA, "user_defined_symbols": ["<left>", "<left>x", "▁▁", "été", "日本"],
                 "control_symbols": ["[INST]", "[/INST]"]},
    # What the library does by default: nmt_nfkc, white space taken together, unknown characters.
    "spm_plain": {**BASE, "user_defined_symbols": ["ﬁ", "a  b"]},
    "spm_casefold": {**BASE, "normalization_rule_name": "nmt_nfkc_cf", "byte_fallback": True, "add_dummy_prefix": False,
                     "remove_extra_whitespaces": False},
}
# Strewn into the texts.
TRAPS = ["<left>", "<left>x", "▁▁", "▁", "été", "日本", "ﬁ", "a  b", "[INST]", "<s>", "</s>", "<unk>", "<0x0A>", "\u00a0", "①", "ｱ"]


def train(style, size, lines):
    """Bytes of the file."""
    # The trainer takes lines; runs of spaces are as in code.
    text = [line for line in lines if line.strip() and "\0" not in line]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text + ["a  b", "a    b", "a        b"] * 20), model_writer=out, vocab_size=size, **STYLES[style])
    return out.getvalue()


def processor(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model)
