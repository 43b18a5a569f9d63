#pragma once

// Byte-level BPE (GPT-2, Llama 3, Qwen2, DBRX, SmolLM2): cut out added tokens, cut the rest into
// pieces, turn each piece into one symbol per byte, merge.

#include <array>

#include "absl/container/flat_hash_map.h"
#include "core/text/tokenizer.h"
#include "core/text/tokenizer_json.h"

namespace octavo {

class ByteLevelBpe final : public Tokenizer {
 public:
  explicit ByteLevelBpe(TokenizerParts parts);
  // Tables hold views into the tokenizer itself.
  ByteLevelBpe(const ByteLevelBpe&) = delete;
  ByteLevelBpe& operator=(const ByteLevelBpe&) = delete;

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              EncodeOptions options) const override;
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const override;
  std::string_view TokenBytes(int32_t id) const override;
  std::optional<int32_t> TokenId(std::string_view content) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(bytes_.size()); }
  bool IsSpecial(int32_t id) const override;

 private:
  void EncodePiece(std::string_view piece, std::vector<int32_t>* symbols,
                   std::vector<int32_t>* ids) const;

  TokenizerParts parts_;
  std::vector<std::string> bytes_;  // per id
  std::vector<bool> special_;       // per id
  std::array<int32_t, 256> id_of_byte_;
  absl::flat_hash_map<std::string_view, int32_t> id_of_written_;
  absl::flat_hash_map<std::string_view, int32_t> id_of_bytes_;  // only for ignore_merges
};

}  // namespace octavo
