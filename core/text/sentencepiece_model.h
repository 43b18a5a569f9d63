#pragma once

// tokenizer.model, the file of SentencePiece, read strictly into the parts of a BPE tokenizer. Ids
// are those of SentencePiece itself (not of the conversion in `transformers`, which orders some
// merges in another way).
//
// Handled: models of kind BPE, with or without byte_fallback; pieces that are normal, unknown,
// control, user-defined or bytes; any precompiled charsmap (identity, nmt_nfkc, ...). Refused by
// name: other kinds, unused pieces, white space as a suffix or not escaped, a denormalizer.
//
// Text between control tokens is a text of its own, with a mark in front, as SentencePiece would
// get it; control and unknown pieces are special tokens. tokenizer_config.json says whether BOS
// (add_bos_token, true if missing) and EOS (add_eos_token, false) are added; "legacy": false and
// "add_prefix_space": false, which ask for other marks, are refused: such folders have a
// tokenizer.json.

#include <string_view>

#include "absl/status/statusor.h"
#include "core/text/tokenizer_parts.h"

namespace octavo {

inline constexpr std::string_view kTokenizerModel = "tokenizer.model";
inline constexpr size_t kSentencePieceFileMax = size_t{16} << 20;
inline constexpr size_t kPieceBytesMax = 256;

// Errors: kBadCheckpoint (no such message, inconsistent, beyond the bounds), kUnsupported.
absl::StatusOr<TokenizerParts> ParseSentencePieceModel(std::string_view tokenizer_model,
                                                       std::string_view tokenizer_config_json);

}  // namespace octavo
