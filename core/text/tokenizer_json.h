#pragma once

// tokenizer.json, read strictly into the parts of a byte-level BPE tokenizer. A component, setting
// or value that is not handled is refused by name: ids that differ silently are worse than an
// error.
//
// Handled (everything else, the normalizer NFC included, is kUnsupported):
//   normalizer      null, an empty Sequence
//   pre_tokenizer   Sequence of Split (Isolated; Removed, inverted or not), Digits, ByteLevel last
//   model           BPE; merges as "a b" or ["a","b"]; unk_token, fuse_unk, ignore_merges
//   post_processor  null, ByteLevel, TemplateProcessing (around one sequence), a Sequence of these
//   decoder         ByteLevel, alone or in a Sequence of one
// `truncation` and `padding` are ignored: they do not say what text means.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/text/added_tokens.h"
#include "core/text/bpe_merge.h"
#include "core/text/pre_tokenizer.h"

namespace octavo {

inline constexpr size_t kVocabularyMax = 1 << 20;  // tokens, and the largest id
inline constexpr size_t kMergesMax = 1 << 21;
inline constexpr size_t kAddedTokensMax = 1 << 16;
inline constexpr size_t kTokenBytesMax = 4096;
inline constexpr size_t kStepsMax = 32;             // of a pre-tokenizer
inline constexpr size_t kTemplateTokensMax = 1024;  // that a post-processor adds

struct TokenizerParts {
  std::vector<std::string> written;  // per id, the token as in the file; empty for unused ids
  std::vector<bool> in_model;        // per id: in the model's vocabulary, not only added
  BpeMerges merges;
  std::optional<int32_t> unknown_id;
  bool fuse_unknown = false;
  bool ignore_merges = false;  // a piece that is a token as a whole is not merged
  AddedTokens added;
  PreTokenizer pre_tokenizer;
  std::vector<int32_t> prefix_ids;  // what the post-processor adds
  std::vector<int32_t> suffix_ids;
};

// Errors: as LoadTokenizer.
absl::StatusOr<TokenizerParts> ParseTokenizerJson(std::string_view tokenizer_json,
                                                  std::string_view tokenizer_config_json);

}  // namespace octavo
