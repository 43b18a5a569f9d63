#pragma once

// The precompiled_charsmap of a SentencePiece normalizer (nmt_nfkc and its kin): which strings of a
// text become which others. It is a double-array trie, in units of 32 bits, over the strings to
// look for, and the strings that they become, each ended by a zero byte.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octavo {

class Charsmap {
 public:
  // kBadCheckpoint, naming `file`, for a blob whose sizes contradict each other.
  static absl::StatusOr<Charsmap> Parse(std::string_view blob, std::string_view file);

  struct Match {
    size_t size = 0;           // bytes of the text
    std::string_view becomes;  // as long as the charsmap lives
  };
  // The longest string of the map that `rest` starts with, if any. A trie that leads outside of
  // itself has no more matches there.
  std::optional<Match> LongestAt(std::string_view rest) const;

 private:
  std::vector<uint32_t> units_;
  std::string strings_;
};

}  // namespace octavo
