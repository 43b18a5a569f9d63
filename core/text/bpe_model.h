#pragma once

// Byte-pair encoding of one piece of text: first symbols, then merges.

#include <array>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/text/tokenizer_parts.h"

namespace octavo {

class BpeModel {
 public:
  // Takes the merges out of `parts`.
  explicit BpeModel(TokenizerParts* parts);
  // Tables hold views into the model itself.
  BpeModel(const BpeModel&) = delete;
  BpeModel& operator=(const BpeModel&) = delete;

  // Appends the ids of `piece`. What is in no token becomes the unknown token, or vanishes if there
  // is none. REQUIRES: valid UTF-8.
  void Encode(std::string_view piece, std::vector<int32_t>* ids) const;

 private:
  int32_t IdOfCharacter(char32_t code) const;
  void SymbolsOfBytes(std::string_view piece, std::vector<int32_t>* symbols) const;
  void SymbolsOfCharacters(std::string_view piece, std::vector<int32_t>* symbols) const;
  void AddToken(int32_t id, std::string_view written, bool keep_whole);
  void FindEnds(const std::vector<std::string>& written, const std::vector<bool>& in_model);

  SymbolKind kind_;
  BpeMerges merges_;
  std::optional<int32_t> unknown_id_;
  bool fuse_unknown_;
  // Per byte: the token of that byte (kBytes), or of the ASCII character.
  std::array<int32_t, 256> id_of_byte_;
  absl::flat_hash_map<char32_t, int32_t> id_of_character_;  // kCharacters, beyond ASCII
  // Only with byte_fallback: "<0x00>" to "<0xFF>", -1 where there is none.
  std::vector<int32_t> fallback_ids_;
  // Only for ignore_merges: what a piece is as a whole token.
  std::deque<std::string> wholes_;
  absl::flat_hash_map<std::string_view, int32_t> id_of_whole_;
};

}  // namespace octavo
