#pragma once

// tokenizer.json, read strictly into the parts of a BPE tokenizer. A component, setting or value
// that is not handled is refused by name: ids that differ silently are worse than an error.
//
// Handled (everything else is kUnsupported):
//   normalizer      null; Prepend, Replace (of a String), NFC, NFKC; a Sequence of these
//   pre_tokenizer   byte-level: Split (Isolated; Removed, inverted or not), Digits, ByteLevel last;
//                   characters: null, Metaspace first (any prepend_scheme, split or not), Split,
//                   Digits; a Sequence of these
//   model           BPE; merges as "a b" or ["a","b"]; unk_token, fuse_unk, ignore_merges; with
//                   characters also byte_fallback
//   post_processor  null, ByteLevel, TemplateProcessing (around one sequence), a Sequence of these
//   decoder         byte-level: ByteLevel, alone or in a Sequence of one; characters: a Sequence of
//                   Replace (of a String by one that is not longer), ByteFallback, Fuse, Strip (at
//                   the start), in this order
// `truncation` and `padding` are ignored: they do not say what text means.
//
// One difference from Hugging Face: where tokens of bytes ("<0xE6>") do not make up whole
// characters, the decoder ByteFallback gives up every byte of the run; here, as in SentencePiece
// itself, characters that are whole are kept. (Otherwise text could not be streamed until the run
// ends, nor a stop string be seen in it.)

#include <string_view>

#include "absl/status/statusor.h"
#include "core/text/tokenizer_parts.h"

namespace octavo {

// Errors: as LoadTokenizer.
absl::StatusOr<TokenizerParts> ParseTokenizerJson(std::string_view tokenizer_json,
                                                  std::string_view tokenizer_config_json);

}  // namespace octavo
