#pragma once

// The regular expressions of tokenizer.json, run by PCRE2 within bounds.
//
// Hugging Face `tokenizers` runs them with Oniguruma. Its dialect and PCRE2's agree on what
// pre-tokenizers use: classes, groups, alternatives, repeats, lookaround and (?i:...). They differ
// in the meaning of some escapes and in the version of Unicode, so a pattern is rewritten first:
// \s, \S, \d, \D, \p{L}, \P{L}, \p{N} and \P{N} become classes that list what PCRE2 lacks, and
// every other escape that is a letter is refused rather than read in another sense.
//
// Work is bounded: a pattern that backtracks without end, or that looks far ahead from every
// position, gives an error.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace octavo {

inline constexpr size_t kPatternBytesMax = 16 << 10;

struct RegexMatch {
  size_t begin;
  size_t end;  // in bytes; > begin
};

// Working memory of FindAll, and the time that all calls with it may take together. Not
// thread-safe.
class RegexScratch {
 public:
  // `text_bytes`: of all the text that will be searched.
  explicit RegexScratch(size_t text_bytes);
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

class Regex {
 public:
  // A pattern in Oniguruma's dialect, as above. Errors: kBadCheckpoint with PCRE2's message,
  // kUnsupported for an escape or a class operation that is not handled.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);
  // Matches exactly this text.
  static absl::StatusOr<Regex> CompileLiteral(std::string_view text);
  // What the Digits pre-tokenizer splits off: one character of category N*, or a run of them.
  static Regex Digits(bool individual);
  // One character that belongs to a word: letters, marks, digits, connectors, joiners.
  static Regex WordCharacter();

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Appends all non-empty matches in `text`, left to right, not overlapping. REQUIRES: valid UTF-8.
  // Errors: kBadRequest when the bounds are passed. Thread-safe.
  absl::Status FindAll(std::string_view text, RegexScratch* scratch,
                       std::vector<RegexMatch>* matches) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  static absl::StatusOr<Regex> Make(const std::string& pattern, unsigned options);
  std::unique_ptr<Code> code_;
};

// The pattern as PCRE2 gets it.
absl::StatusOr<std::string> RewriteForPcre2(std::string_view pattern);

}  // namespace octavo
