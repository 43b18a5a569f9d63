#include "core/text/prefix_trie.h"

namespace octavo {

void PrefixTrie::Add(std::string_view text, int32_t value) {
  if (text.empty()) return;
  first_.set(static_cast<unsigned char>(text[0]));
  uint32_t node = 0;
  for (const char c : text) {
    const auto next = static_cast<uint32_t>(value_at_.size());
    const auto [child, is_new] =
        children_.try_emplace(node << 8 | static_cast<unsigned char>(c), next);
    if (is_new) value_at_.push_back(-1);
    node = child->second;
  }
  if (value_at_[node] < 0) value_at_[node] = value;
}

PrefixTrie::Match PrefixTrie::LongestAt(std::string_view rest) const {
  Match best;
  if (!first_.test(static_cast<unsigned char>(rest[0]))) return best;
  uint32_t node = 0;
  for (size_t i = 0; i < rest.size(); ++i) {
    const auto child = children_.find(node << 8 | static_cast<unsigned char>(rest[i]));
    if (child == children_.end()) break;
    node = child->second;
    if (value_at_[node] >= 0) best = {value_at_[node], i + 1};
  }
  return best;
}

}  // namespace octavo
