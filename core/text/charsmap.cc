#include "core/text/charsmap.h"

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// A unit of the double array. The children of a node lie at the node's index, exclusive-or'ed with
// its offset and their label; where a string ends, the child of label 0 holds the value.
struct Unit {
  uint32_t bits;
  bool has_value() const { return (bits >> 8 & 1) != 0; }
  uint32_t value() const { return bits & 0x7fffffff; }
  uint32_t label() const { return bits & 0x800000ff; }  // never a byte for a value
  uint32_t offset() const { return (bits >> 10) << ((bits & 0x200) >> 6); }
};

uint32_t Word(std::string_view bytes, size_t at) {
  uint32_t word = 0;
  for (size_t i = 0; i < 4; ++i) {
    word |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  }
  return word;
}

}  // namespace

absl::StatusOr<Charsmap> Charsmap::Parse(std::string_view blob, std::string_view file) {
  const size_t trie_bytes = blob.size() < 4 ? 0 : Word(blob, 0);
  if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > blob.size() - 4 ||
      blob.back() != '\0') {
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("the precompiled_charsmap of {} bytes says that its trie has {}",
                                 blob.size(), trie_bytes),
                     {.file = file});
  }
  Charsmap map;
  for (size_t at = 4; at < 4 + trie_bytes; at += 4) map.units_.push_back(Word(blob, at));
  map.strings_ = std::string(blob.substr(4 + trie_bytes));
  return map;
}

std::optional<Charsmap::Match> Charsmap::LongestAt(std::string_view rest) const {
  std::optional<Match> best;
  size_t node = Unit{units_[0]}.offset();
  for (size_t i = 0; i < rest.size(); ++i) {
    const auto byte = static_cast<unsigned char>(rest[i]);
    node ^= byte;
    if (node >= units_.size() || Unit{units_[node]}.label() != byte) break;
    const Unit unit{units_[node]};
    node ^= unit.offset();
    if (node >= units_.size()) break;
    if (!unit.has_value()) continue;
    const size_t value = Unit{units_[node]}.value();
    if (value >= strings_.size()) break;
    // Ends in time: the last byte is a zero.
    best = Match{i + 1, std::string_view(strings_.c_str() + value)};
  }
  return best;
}

}  // namespace octavo
