#include "core/text/byte_level_bpe.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/byte_alphabet.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo {
namespace {
constexpr int32_t kNoId = -1;
}  // namespace

ByteLevelBpe::ByteLevelBpe(TokenizerParts parts) : parts_(std::move(parts)) {
  const size_t size = parts_.written.size();
  bytes_.resize(size);
  special_.resize(size, false);
  id_of_byte_.fill(kNoId);
  id_of_written_.reserve(size);
  for (size_t i = 0; i < size; ++i) {
    const std::string& written = parts_.written[i];
    if (written.empty()) continue;
    // What is not wholly in the byte alphabet stands for itself: an added token with a space in it.
    const std::optional<std::string> bytes = BytesOfWord(written);
    bytes_[i] = bytes.value_or(written);
    const auto id = static_cast<int32_t>(i);
    id_of_written_.emplace(written, id);
    if (!bytes || i >= parts_.in_model.size() || !parts_.in_model[i]) continue;
    if (bytes->size() == 1) id_of_byte_[static_cast<uint8_t>((*bytes)[0])] = id;
    if (parts_.ignore_merges) id_of_bytes_.emplace(bytes_[i], id);
  }
  for (const AddedTokenRule& token : parts_.added.all()) {
    if (token.special) special_[static_cast<size_t>(token.id)] = true;
  }
}

// Bytes that are in no token become the unknown token (one for a run of them, with fuse_unk), or
// vanish if there is none.
void ByteLevelBpe::EncodePiece(std::string_view piece, std::vector<int32_t>* symbols,
                               std::vector<int32_t>* ids) const {
  if (parts_.ignore_merges) {
    if (const auto found = id_of_bytes_.find(piece); found != id_of_bytes_.end()) {
      ids->push_back(found->second);
      return;
    }
  }
  symbols->clear();
  bool in_unknown = false;
  for (const char c : piece) {
    const int32_t id = id_of_byte_[static_cast<uint8_t>(c)];
    if (id != kNoId) {
      symbols->push_back(id);
    } else if (parts_.unknown_id && !(in_unknown && parts_.fuse_unknown)) {
      symbols->push_back(*parts_.unknown_id);
    }
    in_unknown = id == kNoId;
  }
  parts_.merges.Apply(symbols);
  ids->insert(ids->end(), symbols->begin(), symbols->end());
}

absl::StatusOr<std::vector<int32_t>> ByteLevelBpe::Encode(std::string_view text,
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
  std::deque<std::string> made;
  std::vector<std::string_view> pieces;
  std::vector<int32_t> symbols;
  for (const TextSegment& segment : parts_.added.Cut(text, options.parse_special)) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    OCTAVO_RETURN_IF_ERROR(parts_.pre_tokenizer.Run(segment.text, &scratch, &made, &pieces));
    for (const std::string_view piece : pieces) EncodePiece(piece, &symbols, &ids);
    made.clear();
  }
  if (options.add_special_tokens) {
    ids.insert(ids.end(), parts_.suffix_ids.begin(), parts_.suffix_ids.end());
  }
  return ids;
}

std::string ByteLevelBpe::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!(skip_special && IsSpecial(id))) bytes += TokenBytes(id);
  }
  return LossyUtf8(bytes);
}

std::string_view ByteLevelBpe::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return bytes_[static_cast<size_t>(id)];
}

std::optional<int32_t> ByteLevelBpe::TokenId(std::string_view content) const {
  const auto found = id_of_written_.find(content);
  if (found == id_of_written_.end()) return std::nullopt;
  return found->second;
}

bool ByteLevelBpe::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && special_[static_cast<size_t>(id)];
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(std::string_view tokenizer_json,
                                                         std::string_view tokenizer_config_json) {
  OCTAVO_ASSIGN_OR_RETURN(TokenizerParts parts,
                          ParseTokenizerJson(tokenizer_json, tokenizer_config_json));
  return std::unique_ptr<Tokenizer>(new ByteLevelBpe(std::move(parts)));
}

}  // namespace octavo
