#pragma once

// Added tokens: strings that are cut out of the text, first as it is, then as the normalizer leaves
// what is in between.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "core/text/prefix_trie.h"
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
  bool normalized = false;   // looked for in normalized text
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

  // `matched` is what is looked for: the content, or for a normalized token what the normalizer
  // makes of it. Of tokens that match the same, the first is found. REQUIRES: valid UTF-8 of at
  // most kAddedTokenBytesMax bytes; a token without a byte never matches.
  void Add(AddedTokenRule token, std::string_view matched);

  // Cuts `text` (valid UTF-8) at tokens that are not normalized. Leftmost match first, the longest
  // of those; special tokens are left in the text unless `parse_special`.
  std::vector<TextSegment> CutRaw(std::string_view text, bool parse_special) const;
  // The same for tokens that are normalized, in text that is.
  std::vector<TextSegment> CutNormalized(std::string_view text, bool parse_special) const;

  const std::vector<AddedTokenRule>& all() const { return tokens_; }

 private:
  std::vector<TextSegment> Cut(const PrefixTrie& trie, std::string_view text,
                               bool parse_special) const;
  bool IsWordAtStart(std::string_view text) const;
  bool IsWordAtEnd(std::string_view text) const;

  std::vector<AddedTokenRule> tokens_;
  PrefixTrie raw_;  // of indices into tokens_
  PrefixTrie normalized_;
  Regex word_;
};

}  // namespace octavo
