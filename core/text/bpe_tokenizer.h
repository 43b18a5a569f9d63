#pragma once

// The tokenizer of all BPE families (GPT-2, Llama 2 and 3, Mixtral, Qwen2, DBRX, SmolLM2): cut out
// added tokens, normalize what is between them, cut that into pieces, encode each by BPE.

#include "absl/container/flat_hash_map.h"
#include "core/text/bpe_model.h"
#include "core/text/tokenizer.h"
#include "core/text/tokenizer_parts.h"

namespace octavo {

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(TokenizerParts parts);
  // Tables hold views into the tokenizer itself.
  BpeTokenizer(const BpeTokenizer&) = delete;
  BpeTokenizer& operator=(const BpeTokenizer&) = delete;

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              EncodeOptions options) const override;
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const override;
  std::string_view TokenBytes(int32_t id) const override;
  const DecodeRule& decode_rule() const override { return parts_.decode_rule; }
  std::optional<int32_t> TokenId(std::string_view content) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(bytes_.size()); }
  bool IsSpecial(int32_t id) const override;

 private:
  // Appends the ids of text between tokens that are not normalized.
  absl::Status EncodeText(std::string_view text, bool at_start, bool parse_special,
                          RegexScratch* scratch, std::vector<int32_t>* ids) const;
  std::string BytesOf(const std::string& written) const;

  TokenizerParts parts_;  // without the merges, which are in model_
  BpeModel model_;
  std::vector<std::string> bytes_;  // per id
  std::vector<bool> special_;       // per id
  absl::flat_hash_map<std::string_view, int32_t> id_of_written_;
};

}  // namespace octavo
