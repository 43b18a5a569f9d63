#include "core/text/utf8.h"

#include "core/base/status.h"

namespace octavo {
namespace {

struct Lead {
  size_t size = 0;  // 0: not a lead byte
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xbf;
  char32_t bits = 0;
};

Lead LeadOf(unsigned char byte) {
  if (byte >= 0xc2 && byte <= 0xdf) return {2, 0x80, 0xbf, char32_t(byte & 0x1f)};
  if (byte == 0xe0) return {3, 0xa0, 0xbf, 0};
  if (byte == 0xed) return {3, 0x80, 0x9f, 0xd};
  if (byte >= 0xe1 && byte <= 0xef) return {3, 0x80, 0xbf, char32_t(byte & 0x0f)};
  if (byte == 0xf0) return {4, 0x90, 0xbf, 0};
  if (byte >= 0xf1 && byte <= 0xf3) return {4, 0x80, 0xbf, char32_t(byte & 0x07)};
  if (byte == 0xf4) return {4, 0x80, 0x8f, 4};
  return {};
}

}  // namespace

Utf8Char DecodeUtf8(std::string_view text) {
  OCTAVO_CHECK(!text.empty());
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return {Utf8State::kValid, first, 1};
  const Lead lead = LeadOf(first);
  if (lead.size == 0) return {Utf8State::kInvalid, 0, 1};
  char32_t code = lead.bits;
  for (size_t i = 1; i < lead.size; ++i) {
    if (i == text.size()) return {Utf8State::kIncomplete, 0, i};
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned char min = i == 1 ? lead.second_min : 0x80;
    const unsigned char max = i == 1 ? lead.second_max : 0xbf;
    if (byte < min || byte > max) return {Utf8State::kInvalid, 0, i};
    code = code << 6 | (byte & 0x3f);
  }
  return {Utf8State::kValid, code, lead.size};
}

std::string_view LastCharacter(std::string_view text) {
  OCTAVO_CHECK(!text.empty());
  size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
  return text.substr(begin);
}

bool IsUtf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Char next = DecodeUtf8(text);
    if (next.state != Utf8State::kValid) return false;
    text.remove_prefix(next.size);
  }
  return true;
}

void AppendUtf8(char32_t code, std::string* out) {
  auto put = [&](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6);
    put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3f));
    put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  }
}

std::string LossyUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Char next = DecodeUtf8(text);
    out += next.state == Utf8State::kValid ? text.substr(0, next.size) : kReplacementUtf8;
    text.remove_prefix(next.size);
  }
  return out;
}

bool IsWhiteSpace(char32_t code) {
  return (code >= 0x09 && code <= 0x0d) || code == 0x20 || code == 0x85 || code == 0xa0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 ||
         code == 0x202f || code == 0x205f || code == 0x3000;
}

}  // namespace octavo
