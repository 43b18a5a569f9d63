#pragma once

// What SentencePiece does to a text before it cuts it: the characters of a charsmap, white space
// taken together, spaces written as marks ("▁"), a mark in front.

#include <optional>
#include <string>
#include <string_view>

#include "core/text/charsmap.h"
#include "core/text/prefix_trie.h"

namespace octavo {

class SentencePieceNormalizer {
 public:
  static constexpr std::string_view kMark = "\u2581";

  std::optional<Charsmap> charsmap;
  PrefixTrie kept;  // user-defined pieces, which no charsmap changes
  bool add_mark = true;
  bool remove_extra_spaces = true;  // at the ends, and all but one of a run

  // REQUIRES: valid UTF-8. Nothing if that has more than `bytes_max` bytes.
  std::optional<std::string> Run(std::string_view text, size_t bytes_max) const;

 private:
  struct Part {
    size_t size;  // of the text
    std::string_view becomes;
  };
  Part PartAt(std::string_view rest) const;
};

}  // namespace octavo
