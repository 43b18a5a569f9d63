#include "core/text/bpe_tokenizer.h"

#include <deque>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/byte_alphabet.h"
#include "core/text/detokenizer.h"
#include "core/text/sentencepiece_model.h"
#include "core/text/tokenizer_json.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo {

BpeTokenizer::BpeTokenizer(TokenizerParts parts) : parts_(std::move(parts)), model_(&parts_) {
  const size_t size = parts_.written.size();
  bytes_.resize(size);
  special_.resize(size, false);
  id_of_written_.reserve(size);
  for (size_t i = 0; i < size; ++i) {
    const std::string& written = parts_.written[i];
    if (written.empty()) continue;
    bytes_[i] = BytesOf(written);
    id_of_written_.emplace(written, static_cast<int32_t>(i));
  }
  for (const AddedTokenRule& token : parts_.added.all()) {
    if (token.special) special_[static_cast<size_t>(token.id)] = true;
  }
}

std::string BpeTokenizer::BytesOf(const std::string& written) const {
  // What is not wholly in the byte alphabet stands for itself: an added token with a space in it.
  if (parts_.symbols == SymbolKind::kBytes) return BytesOfWord(written).value_or(written);
  std::string text = written;
  for (const auto& [pattern, content] : parts_.decoder_replaces) {
    // Bounded by the number of steps, the size of a token and kStepBytesMax.
    text = ReplaceAll(text, pattern, content, kNormalizedBytesMax).value_or(written);
  }
  if (parts_.decoder_bytes) {
    if (const auto byte = ByteOfToken(text)) return {static_cast<char>(*byte)};
  }
  return text;
}

absl::Status BpeTokenizer::EncodeText(std::string_view text, bool at_start, bool parse_special,
                                      RegexScratch* scratch, std::vector<int32_t>* ids) const {
  std::string normalized;
  if (!parts_.normalizer.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(normalized, parts_.normalizer.Run(text));
    text = normalized;
  }
  std::deque<std::string> made;
  std::vector<std::string_view> pieces;
  for (const TextSegment& segment : parts_.added.CutNormalized(text, parse_special)) {
    if (segment.id >= 0) {
      ids->push_back(segment.id);
      continue;
    }
    const bool first = at_start && segment.text.data() == text.data();
    OCTAVO_RETURN_IF_ERROR(parts_.pre_tokenizer.Run(segment.text, first, scratch, &made, &pieces));
    for (const std::string_view piece : pieces) model_.Encode(piece, ids);
    made.clear();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::Encode(std::string_view text,
                                                          EncodeOptions options) const {
  if (text.size() > kEncodeBytesMax) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("the text has {} bytes; at most {} are encoded at once",
                                 text.size(), kEncodeBytesMax));
  }
  std::string repaired;
  if (!IsUtf8(text)) {
    repaired = LossyUtf8(text);
    text = repaired;
  }
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids = parts_.prefix_ids;
  RegexScratch scratch(text.size());
  for (const TextSegment& segment : parts_.added.CutRaw(text, options.parse_special)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    const bool at_start = segment.text.data() == text.data();
    OCTAVO_RETURN_IF_ERROR(
        EncodeText(segment.text, at_start, options.parse_special, &scratch, &ids));
  }
  if (options.add_special_tokens) {
    ids.insert(ids.end(), parts_.suffix_ids.begin(), parts_.suffix_ids.end());
  }
  return ids;
}

std::string BpeTokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  Detokenizer detokenizer(this, skip_special);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Push(id);
  return text + detokenizer.Finish();
}

std::string_view BpeTokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return bytes_[static_cast<size_t>(id)];
}

std::optional<int32_t> BpeTokenizer::TokenId(std::string_view content) const {
  const auto found = id_of_written_.find(content);
  if (found == id_of_written_.end()) return std::nullopt;
  return found->second;
}

bool BpeTokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && special_[static_cast<size_t>(id)];
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(std::string_view tokenizer_json,
                                                         std::string_view tokenizer_config_json) {
  OCTAVO_ASSIGN_OR_RETURN(TokenizerParts parts,
                          ParseTokenizerJson(tokenizer_json, tokenizer_config_json));
  return std::unique_ptr<Tokenizer>(new BpeTokenizer(std::move(parts)));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(
    std::string_view tokenizer_model, std::string_view tokenizer_config_json) {
  OCTAVO_ASSIGN_OR_RETURN(TokenizerParts parts,
                          ParseSentencePieceModel(tokenizer_model, tokenizer_config_json));
  return std::unique_ptr<Tokenizer>(new BpeTokenizer(std::move(parts)));
}

}  // namespace octavo
