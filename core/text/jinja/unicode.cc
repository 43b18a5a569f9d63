#include "core/text/jinja/unicode.h"

#include <algorithm>
#include <span>

#include "core/text/jinja/unicode_tables.h"
#include "core/text/utf8.h"

namespace octavo::jinja {
namespace {

constexpr char32_t kCapitalSigma = 0x3a3;
constexpr char32_t kFinalSigma = 0x3c2;

// The last run that begins at or before `code`; null if it ends before.
template <typename Run>
const Run* RunOf(std::span<const Run> runs, char32_t code) {
  auto after = std::upper_bound(runs.begin(), runs.end(), code,
                                [](char32_t c, const Run& run) { return c < run.first; });
  if (after == runs.begin() || (--after)->last < code) return nullptr;
  return &*after;
}

const char* TextOf(std::span<const CaseText> texts, char32_t code) {
  const auto found =
      std::lower_bound(texts.begin(), texts.end(), code,
                       [](const CaseText& text, char32_t c) { return text.code < c; });
  return found == texts.end() || found->code != code ? nullptr : found->text;
}

char32_t Mapped(std::span<const CaseRun> runs, char32_t code) {
  const CaseRun* run = RunOf<CaseRun>(runs, code);
  if (run == nullptr || (code - run->first) % run->step != 0) return code;
  return static_cast<char32_t>(static_cast<int64_t>(code) + run->delta);
}

bool HasCase(char32_t code) {
  return Mapped(kLower, code) != code || Mapped(kUpper, code) != code ||
         TextOf(kUpperTexts, code) != nullptr;
}

// Whether a letter with case begins `text`.
bool BeginsCased(std::string_view text) { return !text.empty() && HasCase(DecodeUtf8(text).code); }

}  // namespace

bool IsPrintable(char32_t code) {
  return RunOf<HiddenRun>(kHidden, code) == nullptr && !(code >= 0xd800 && code < 0xe000);
}

void AppendCased(char32_t code, Case to, std::string* out) {
  const char* text = nullptr;
  if (to == Case::kTitle) text = TextOf(kTitleTexts, code);
  if (to != Case::kLower && text == nullptr) text = TextOf(kUpperTexts, code);
  if (to == Case::kLower) text = TextOf(kLowerTexts, code);
  if (text != nullptr) {
    *out += text;
  } else {
    AppendUtf8(to == Case::kLower ? Mapped(kLower, code) : Mapped(kUpper, code), out);
  }
}

std::string WithCase(std::string_view text, Case to) {
  std::string out;
  out.reserve(text.size());
  bool cased_before = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = DecodeUtf8(text.substr(at));
    const std::string_view rest = text.substr(at + next.size);
    if (next.state != Utf8State::kValid) {
      out += text.substr(at, next.size);
    } else if (to == Case::kLower && next.code == kCapitalSigma && cased_before &&
               !BeginsCased(rest)) {
      AppendUtf8(kFinalSigma, &out);
    } else {
      AppendCased(next.code, to, &out);
    }
    cased_before = next.state == Utf8State::kValid && HasCase(next.code);
    at += next.size;
  }
  return out;
}

}  // namespace octavo::jinja
