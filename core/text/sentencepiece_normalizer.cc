#include "core/text/sentencepiece_normalizer.h"

#include "core/text/utf8.h"

namespace octavo {

SentencePieceNormalizer::Part SentencePieceNormalizer::PartAt(std::string_view rest) const {
  if (const PrefixTrie::Match user = kept.LongestAt(rest); user.value >= 0) {
    return {user.size, rest.substr(0, user.size)};
  }
  if (charsmap) {
    if (const auto match = charsmap->LongestAt(rest)) return {match->size, match->becomes};
  }
  const size_t size = DecodeUtf8(rest).size;
  return {size, rest.substr(0, size)};
}

std::optional<std::string> SentencePieceNormalizer::Run(std::string_view text,
                                                        size_t bytes_max) const {
  std::string out;
  bool after_space = remove_extra_spaces;  // the start counts as one
  // Text of nothing but spaces gets no mark, if spaces are removed.
  bool marked = !add_mark;
  if (!marked && !remove_extra_spaces && !text.empty()) {
    out += kMark;
    marked = true;
  }
  while (!text.empty()) {
    Part part = PartAt(text);
    text.remove_prefix(part.size);
    while (after_space && part.becomes.starts_with(' ')) part.becomes.remove_prefix(1);
    if (part.becomes.empty()) continue;
    if (!marked) out += kMark;
    marked = true;
    for (const char c : part.becomes) {
      if (c == ' ') {
        out += kMark;
      } else {
        out += c;
      }
    }
    after_space = remove_extra_spaces && part.becomes.ends_with(' ');
    if (out.size() > bytes_max) return std::nullopt;
  }
  while (remove_extra_spaces && out.ends_with(kMark)) out.resize(out.size() - kMark.size());
  return out;
}

}  // namespace octavo
