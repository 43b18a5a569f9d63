#include "core/text/bpe_model.h"

#include <algorithm>

#include "core/text/byte_alphabet.h"
#include "core/text/utf8.h"

namespace octavo {
namespace {

constexpr int32_t kNoId = -1;
constexpr char32_t kAsciiEnd = 0x80;

}  // namespace

BpeModel::BpeModel(TokenizerParts* parts)
    : kind_(parts->symbols),
      merges_(std::move(parts->merges)),
      unknown_id_(parts->unknown_id),
      fuse_unknown_(parts->fuse_unknown) {
  id_of_byte_.fill(kNoId);
  if (parts->byte_fallback) fallback_ids_.assign(256, kNoId);
  for (size_t i = 0; i < parts->in_model.size(); ++i) {
    if (!parts->in_model[i]) continue;
    AddToken(static_cast<int32_t>(i), parts->written[i], parts->ignore_merges);
  }
  FindEnds(parts->written, parts->in_model);
}

void BpeModel::AddToken(int32_t id, std::string_view written, bool keep_whole) {
  if (kind_ == SymbolKind::kBytes) {
    const std::optional<std::string> bytes = BytesOfWord(written);
    if (!bytes) return;  // not in the byte alphabet: no text becomes this
    if (bytes->size() == 1) id_of_byte_[static_cast<uint8_t>((*bytes)[0])] = id;
    if (keep_whole) id_of_whole_.emplace(wholes_.emplace_back(*bytes), id);
    return;
  }
  const Utf8Char first = DecodeUtf8(written);
  if (first.size == written.size() && first.state == Utf8State::kValid) {
    if (first.code < kAsciiEnd) {
      id_of_byte_[first.code] = id;
    } else {
      id_of_character_.emplace(first.code, id);
    }
  }
  if (!fallback_ids_.empty()) {
    const std::optional<uint8_t> byte = ByteOfToken(written);
    if (byte && written == TokenOfByte(*byte)) fallback_ids_[*byte] = id;
  }
  if (keep_whole) id_of_whole_.emplace(wholes_.emplace_back(written), id);
}

// A token that merging makes is spelled by its symbols, so its first and last symbols are known;
// unless tokens of bytes or the unknown token take part in merges, which no real file does. Then
// nothing is cut.
void BpeModel::FindEnds(const std::vector<std::string>& written,
                        const std::vector<bool>& in_model) {
  std::vector<int32_t> spelled_otherwise;
  if (unknown_id_) spelled_otherwise.push_back(*unknown_id_);
  std::ranges::copy_if(fallback_ids_, std::back_inserter(spelled_otherwise),
                       [](int32_t id) { return id != kNoId; });
  if (std::ranges::any_of(spelled_otherwise, [&](int32_t id) { return merges_.Merges(id); })) {
    return;
  }
  std::vector<int32_t> first(written.size(), kNoId);
  std::vector<int32_t> last(written.size(), kNoId);
  for (size_t i = 0; i < in_model.size(); ++i) {
    if (!in_model[i]) continue;
    if (kind_ == SymbolKind::kBytes) {
      const std::optional<std::string> bytes = BytesOfWord(written[i]);
      if (!bytes) continue;
      first[i] = id_of_byte_[static_cast<uint8_t>(bytes->front())];
      last[i] = id_of_byte_[static_cast<uint8_t>(bytes->back())];
    } else {
      first[i] = IdOfCharacter(DecodeUtf8(written[i]).code);
      last[i] = IdOfCharacter(DecodeUtf8(LastCharacter(written[i])).code);
    }
  }
  merges_.SetEnds(first, last);
}

int32_t BpeModel::IdOfCharacter(char32_t code) const {
  if (code < kAsciiEnd) return id_of_byte_[code];
  const auto found = id_of_character_.find(code);
  return found == id_of_character_.end() ? kNoId : found->second;
}

void BpeModel::SymbolsOfBytes(std::string_view piece, std::vector<int32_t>* symbols) const {
  bool in_unknown = false;
  for (const char c : piece) {
    const int32_t id = id_of_byte_[static_cast<uint8_t>(c)];
    if (id != kNoId) {
      symbols->push_back(id);
    } else if (unknown_id_ && !(in_unknown && fuse_unknown_)) {
      symbols->push_back(*unknown_id_);
    }
    in_unknown = id == kNoId;
  }
}

// As Hugging Face does it, an unknown token waits until a character that is a token (or, unfused,
// another unknown one) comes: characters that become bytes go before it.
void BpeModel::SymbolsOfCharacters(std::string_view piece, std::vector<int32_t>* symbols) const {
  bool unknown_waits = false;
  while (!piece.empty()) {
    const Utf8Char next = DecodeUtf8(piece);
    const std::string_view written = piece.substr(0, next.size);
    piece.remove_prefix(next.size);
    const auto fallback = [&](char c) { return fallback_ids_[static_cast<uint8_t>(c)]; };
    if (const int32_t id = IdOfCharacter(next.code); id != kNoId) {
      if (unknown_waits) symbols->push_back(*unknown_id_);
      unknown_waits = false;
      symbols->push_back(id);
    } else if (!fallback_ids_.empty() &&
               std::ranges::none_of(written, [&](char c) { return fallback(c) == kNoId; })) {
      for (const char c : written) symbols->push_back(fallback(c));
    } else if (unknown_id_) {
      if (unknown_waits && !fuse_unknown_) symbols->push_back(*unknown_id_);
      unknown_waits = true;
    }
  }
  if (unknown_waits) symbols->push_back(*unknown_id_);
}

void BpeModel::Encode(std::string_view piece, std::vector<int32_t>* ids) const {
  if (const auto found = id_of_whole_.find(piece); found != id_of_whole_.end()) {
    ids->push_back(found->second);
    return;
  }
  std::vector<int32_t> symbols;
  symbols.reserve(piece.size());  // there are no more
  if (kind_ == SymbolKind::kBytes) {
    SymbolsOfBytes(piece, &symbols);
  } else {
    SymbolsOfCharacters(piece, &symbols);
  }
  merges_.Apply(&symbols);
  ids->insert(ids->end(), symbols.begin(), symbols.end());
}

}  // namespace octavo
