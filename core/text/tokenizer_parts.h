#pragma once

// What a BPE tokenizer is made of, whichever file it was read from (tokenizer_json.h,
// sentencepiece_model.h), and the bounds that hold for all of them.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "core/text/added_tokens.h"
#include "core/text/bpe_merge.h"
#include "core/text/normalizer.h"
#include "core/text/pre_tokenizer.h"
#include "core/text/tokenizer.h"

namespace octavo {

inline constexpr size_t kVocabularyMax = 1 << 20;  // tokens, and the largest id
inline constexpr size_t kMergesMax = 1 << 21;
inline constexpr size_t kAddedTokensMax = 1 << 16;
inline constexpr size_t kTokenBytesMax = 4096;
inline constexpr size_t kStepsMax = 32;             // of a normalizer, pre-tokenizer or decoder
inline constexpr size_t kStepBytesMax = 256;        // of a text that a step looks for or puts in
inline constexpr size_t kTemplateTokensMax = 1024;  // that a post-processor adds

// How a piece of text becomes the symbols that merging starts from.
enum class SymbolKind {
  kBytes,       // one per byte; the vocabulary is written in the byte alphabet (byte_alphabet.h)
  kCharacters,  // one per character, or its bytes as "<0x0A>" (byte_fallback), or the unknown token
};

struct TokenizerParts {
  std::vector<std::string> written;  // per id, the token as in the file; empty for unused ids
  std::vector<bool> in_model;        // per id: in the model's vocabulary, not only added
  SymbolKind symbols = SymbolKind::kBytes;
  BpeMerges merges;
  std::optional<int32_t> unknown_id;
  bool fuse_unknown = false;   // one unknown token for a run of them
  bool byte_fallback = false;  // only with kCharacters
  bool ignore_merges = false;  // a piece that is a token as a whole is not merged

  AddedTokens added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<int32_t> prefix_ids;  // what the post-processor adds
  std::vector<int32_t> suffix_ids;

  // kCharacters: what stands in the text for a part of a token: {"▁", " "}. (With kBytes the byte
  // alphabet says it.) And whether "<0x0A>" is the byte, in the decoded text.
  std::vector<std::pair<std::string, std::string>> decoder_replaces;
  bool decoder_bytes = false;
  DecodeRule decode_rule;
};

using IdsByToken = absl::flat_hash_map<std::string, int32_t>;

// Records that `id` is written `token`; an id has one token. `file` names it in errors
// (kBadCheckpoint).
absl::Status ClaimId(int32_t id, std::string_view token, std::string_view file,
                     TokenizerParts* parts);

// The byte that "<0x0A>" stands for; nothing for another token.
std::optional<uint8_t> ByteOfToken(std::string_view token);
// "<0x0A>" for 10.
std::string TokenOfByte(uint8_t byte);

}  // namespace octavo
