#include "core/text/added_tokens.h"

#include <algorithm>

#include "core/base/status.h"
#include "core/text/utf8.h"

namespace octavo {
namespace {

// Where the last character of `text` begins. REQUIRES: not empty.
size_t LastCharBegin(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
  return begin;
}

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
    const size_t last = LastCharBegin(text.substr(0, begin));
    if (!IsWhiteSpace(DecodeUtf8(text.substr(last)).code)) break;
    begin = last;
  }
  return begin;
}

}  // namespace

void AddedTokens::Add(AddedTokenRule token) {
  OCTAVO_CHECK(!token.content.empty() && token.content.size() <= kAddedTokenBytesMax);
  Trie& trie = token.normalized ? normalized_ : raw_;
  trie.first.set(static_cast<unsigned char>(token.content[0]));
  uint32_t node = 0;
  for (const char c : token.content) {
    const auto next = static_cast<uint32_t>(trie.token_at.size());
    const auto [child, is_new] =
        trie.children.try_emplace(node << 8 | static_cast<unsigned char>(c), next);
    if (is_new) trie.token_at.push_back(-1);
    node = child->second;
  }
  trie.token_at[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(std::move(token));
}

AddedTokens::Match AddedTokens::LongestAt(const Trie& trie, std::string_view rest) {
  Match best;
  if (!trie.first.test(static_cast<unsigned char>(rest[0]))) return best;
  uint32_t node = 0;
  for (size_t i = 0; i < rest.size(); ++i) {
    const auto child = trie.children.find(node << 8 | static_cast<unsigned char>(rest[i]));
    if (child == trie.children.end()) break;
    node = child->second;
    if (trie.token_at[node] >= 0) best = {trie.token_at[node], i + 1};
  }
  return best;
}

bool AddedTokens::IsWordAtStart(std::string_view text) const {
  if (text.empty()) return false;
  RegexScratch scratch(text.size());
  std::vector<RegexMatch> matches;
  const std::string_view first = text.substr(0, DecodeUtf8(text).size);
  return word_.FindAll(first, &scratch, &matches).ok() && !matches.empty();
}

bool AddedTokens::IsWordAtEnd(std::string_view text) const {
  return !text.empty() && IsWordAtStart(text.substr(LastCharBegin(text)));
}

void AddedTokens::CutText(const Trie& trie, std::string_view text, bool parse_special,
                          std::vector<TextSegment>* out) const {
  size_t done = 0;  // everything before is in `out`
  for (size_t at = 0; at < text.size();) {
    const Match match = LongestAt(trie, text.substr(at));
    if (match.token < 0) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + match.size;
    // A match that is turned down is still passed over as a whole.
    at = end;
    const AddedTokenRule& token = tokens_[static_cast<size_t>(match.token)];
    if (token.special && !parse_special) continue;
    if (token.single_word &&
        (IsWordAtEnd(text.substr(0, begin)) || IsWordAtStart(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) begin = std::max(SpaceAtEnd(text.substr(0, begin)), done);
    if (token.rstrip) end += SpaceAtStart(text.substr(end));
    if (begin > done) out->push_back({text.substr(done, begin - done), -1});
    out->push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) out->push_back({text.substr(done), -1});
}

std::vector<TextSegment> AddedTokens::Cut(std::string_view text, bool parse_special) const {
  std::vector<TextSegment> first;
  CutText(raw_, text, parse_special, &first);
  if (normalized_.children.empty()) return first;
  std::vector<TextSegment> out;
  for (const TextSegment& segment : first) {
    if (segment.id >= 0) {
      out.push_back(segment);
    } else {
      CutText(normalized_, segment.text, parse_special, &out);
    }
  }
  return out;
}

}  // namespace octavo
