#pragma once

// Changes the text between added tokens before it is cut into pieces: steps in sequence, as Hugging
// Face's normalizers do. What SentencePiece does is one of the steps.

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "core/text/normal_form.h"
#include "core/text/sentencepiece_normalizer.h"

namespace octavo {

// The longest text that a normalizer makes, in bytes.
inline constexpr size_t kNormalizedBytesMax = size_t{64} << 20;

class Normalizer {
 public:
  // Puts `text` before text that is not empty.
  void AddPrepend(std::string text);
  // Puts `content` in the place of every `pattern`, from left to right. REQUIRES: a pattern of at
  // least one byte.
  void AddReplace(std::string pattern, std::string content);
  void AddNormalForm(NormalForm form);
  void AddSentencePiece(SentencePieceNormalizer step);

  bool empty() const { return steps_.empty(); }

  // REQUIRES: valid UTF-8. Errors: kBadRequest when a step makes more than kNormalizedBytesMax.
  absl::StatusOr<std::string> Run(std::string_view text) const;

 private:
  struct Prepend {
    std::string text;
  };
  struct Replace {
    std::string pattern;
    std::string content;
  };
  std::vector<std::variant<Prepend, Replace, NormalForm, SentencePieceNormalizer>> steps_;
};

// `text` with `content` for every `pattern`, from left to right; nothing if that is longer than
// `bytes_max`. REQUIRES: !pattern.empty().
std::optional<std::string> ReplaceAll(std::string_view text, std::string_view pattern,
                                      std::string_view content, size_t bytes_max);

}  // namespace octavo
