#include "core/text/normal_form.h"

#include <algorithm>
#include <array>
#include <vector>

#include "core/base/status.h"
#include "core/text/unicode_additions.h"
#include "core/text/utf8.h"
#include "utf8proc.h"

namespace octavo {
namespace {

constexpr size_t kDecompositionMax = 32;  // characters that one becomes; 18 in Unicode 15

// Below, no character changes under NFC (U+0300, the first combining mark, is CC 80); under NFKC
// that holds for ASCII only.
constexpr unsigned char kNfcQuickByte = 0xcc;
constexpr unsigned char kNfkcQuickByte = 0x80;

bool IsNeverNormalized(char32_t code) {
  const auto after = std::ranges::upper_bound(kNeverNormalized, code, {}, &CodeRange::first);
  return after != kNeverNormalized.begin() && code <= std::prev(after)->last;
}

int CombiningClass(utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; }

// Canonical order: runs of marks, stably by class. (utf8proc's own loop takes quadratic time on a
// long run.)
void OrderMarks(std::vector<utf8proc_int32_t>* codes) {
  for (auto begin = codes->begin(); begin != codes->end();) {
    if (CombiningClass(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, codes->end(),
                                  [](utf8proc_int32_t code) { return CombiningClass(code) == 0; });
    std::ranges::stable_sort(begin, end, {}, CombiningClass);
    begin = end;
  }
}

// Appends the composed form of `codes` (decomposed) and clears them.
void Compose(std::vector<utf8proc_int32_t>* codes, std::string* out) {
  if (codes->empty()) return;
  OrderMarks(codes);
  const auto size =
      utf8proc_normalize_utf32(codes->data(), static_cast<utf8proc_ssize_t>(codes->size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  OCTAVO_CHECK(size >= 0);
  for (utf8proc_ssize_t i = 0; i < size; ++i) {
    AppendUtf8(static_cast<char32_t>((*codes)[static_cast<size_t>(i)]), out);
  }
  codes->clear();
}

}  // namespace

std::string Normalized(std::string_view text, NormalForm form) {
  const unsigned char quick = form == NormalForm::kNfc ? kNfcQuickByte : kNfkcQuickByte;
  const auto changes = [quick](char c) { return static_cast<unsigned char>(c) >= quick; };
  if (std::ranges::none_of(text, changes)) return std::string(text);
  const auto options = static_cast<utf8proc_option_t>(
      UTF8PROC_DECOMPOSE | UTF8PROC_STABLE | (form == NormalForm::kNfkc ? UTF8PROC_COMPAT : 0));
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> codes;
  while (!text.empty()) {
    const Utf8Char next = DecodeUtf8(text);
    if (IsNeverNormalized(next.code)) {
      Compose(&codes, &out);
      out += text.substr(0, next.size);
    } else {
      std::array<utf8proc_int32_t, kDecompositionMax> parts;
      const auto size = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(next.code),
                                                parts.data(), parts.size(), options, nullptr);
      OCTAVO_CHECK(size >= 0 && size <= static_cast<utf8proc_ssize_t>(parts.size()));
      // ASCII joins nothing before it: what came before is settled, and memory stays small.
      if (next.code < 0x80) Compose(&codes, &out);
      codes.insert(codes.end(), parts.data(), parts.data() + size);
    }
    text.remove_prefix(next.size);
  }
  Compose(&codes, &out);
  return out;
}

}  // namespace octavo
