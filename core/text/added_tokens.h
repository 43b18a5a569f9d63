#pragma once

// Added tokens: strings that are cut out of the text before anything else looks at it.

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "core/text/regex.h"

namespace octavo {

// Bounds the work per position of the text. Real ones have up to about 100 bytes.
inline constexpr size_t kAddedTokenBytesMax = 256;

struct AddedTokenRule {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // not as a part of a word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for in a second pass, between the tokens of the first
  bool special = false;
};

// Either a token or text in between.
struct TextSegment {
  std::string_view text;
  int32_t id = -1;  // -1: text
};

class AddedTokens {
 public:
  AddedTokens() : word_(Regex::WordCharacter()) {}

  // REQUIRES: valid UTF-8, 1 to kAddedTokenBytesMax bytes, not added before.
  void Add(AddedTokenRule token);

  // Cuts `text` (valid UTF-8). Leftmost match first, the longest of those; special tokens are left
  // in the text unless `parse_special`.
  std::vector<TextSegment> Cut(std::string_view text, bool parse_special) const;

  const std::vector<AddedTokenRule>& all() const { return tokens_; }

 private:
  // A trie over bytes: children_[node << 8 | byte].
  struct Trie {
    absl::flat_hash_map<uint32_t, uint32_t> children;
    std::vector<int32_t> token_at{-1};  // per node, an index into tokens_
    std::bitset<256> first;
  };
  struct Match {
    int32_t token = -1;  // index into tokens_
    size_t size = 0;
  };
  static Match LongestAt(const Trie& trie, std::string_view rest);
  void CutText(const Trie& trie, std::string_view text, bool parse_special,
               std::vector<TextSegment>* out) const;
  bool IsWordAtStart(std::string_view text) const;
  bool IsWordAtEnd(std::string_view text) const;

  std::vector<AddedTokenRule> tokens_;
  Trie raw_;
  Trie normalized_;
  Regex word_;
};

}  // namespace octavo
