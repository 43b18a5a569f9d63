#include "core/text/added_tokens.h"

#include <algorithm>

#include "core/base/status.h"
#include "core/text/utf8.h"

namespace octavo {
namespace {

size_t SpaceAtStart(std::string_view text) {
  size_t size = 0;
  while (size < text.size()) {
    const Utf8Char next = DecodeUtf8(text.substr(size));
    if (!IsWhiteSpace(next.code)) break;
    size += next.size;
  }
  return size;
}

// Where the white space at the end of `text` begins.
size_t SpaceAtEnd(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    const std::string_view last = LastCharacter(text.substr(0, begin));
    if (!IsWhiteSpace(DecodeUtf8(last).code)) break;
    begin -= last.size();
  }
  return begin;
}

}  // namespace

void AddedTokens::Add(AddedTokenRule token, std::string_view matched) {
  OCTAVO_CHECK(matched.size() <= kAddedTokenBytesMax);
  PrefixTrie& trie = token.normalized ? normalized_ : raw_;
  trie.Add(matched, static_cast<int32_t>(tokens_.size()));
  tokens_.push_back(std::move(token));
}

bool AddedTokens::IsWordAtStart(std::string_view text) const {
  if (text.empty()) return false;
  RegexScratch scratch(text.size());
  std::vector<RegexMatch> matches;
  const std::string_view first = text.substr(0, DecodeUtf8(text).size);
  return word_.FindAll(first, &scratch, &matches).ok() && !matches.empty();
}

bool AddedTokens::IsWordAtEnd(std::string_view text) const {
  return !text.empty() && IsWordAtStart(LastCharacter(text));
}

std::vector<TextSegment> AddedTokens::Cut(const PrefixTrie& trie, std::string_view text,
                                          bool parse_special) const {
  std::vector<TextSegment> out;
  size_t done = 0;  // everything before is in `out`
  for (size_t at = 0; at < text.size();) {
    const PrefixTrie::Match match = trie.LongestAt(text.substr(at));
    if (match.value < 0) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + match.size;
    // A match that is turned down is still passed over as a whole.
    at = end;
    const AddedTokenRule& token = tokens_[static_cast<size_t>(match.value)];
    if (token.special && !parse_special) continue;
    if (token.single_word &&
        (IsWordAtEnd(text.substr(0, begin)) || IsWordAtStart(text.substr(end)))) {
      continue;
    }
    if (token.lstrip && begin > done) begin = done + SpaceAtEnd(text.substr(done, begin - done));
    if (token.rstrip) end += SpaceAtStart(text.substr(end));
    if (begin > done) out.push_back({text.substr(done, begin - done), -1});
    out.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) out.push_back({text.substr(done), -1});
  return out;
}

std::vector<TextSegment> AddedTokens::CutRaw(std::string_view text, bool parse_special) const {
  return Cut(raw_, text, parse_special);
}

std::vector<TextSegment> AddedTokens::CutNormalized(std::string_view text,
                                                    bool parse_special) const {
  return Cut(normalized_, text, parse_special);
}

}  // namespace octavo
