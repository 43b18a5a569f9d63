#include "core/text/normalizer.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {

std::optional<std::string> ReplaceAll(std::string_view text, std::string_view pattern,
                                      std::string_view content, size_t bytes_max) {
  OCTAVO_CHECK(!pattern.empty());
  std::string out;
  out.reserve(text.size());
  while (true) {
    const size_t at = text.find(pattern);
    out += text.substr(0, at);
    if (out.size() > bytes_max) return std::nullopt;
    if (at == text.npos) return out;
    out += content;
    text.remove_prefix(at + pattern.size());
  }
}

void Normalizer::AddPrepend(std::string text) { steps_.emplace_back(Prepend{std::move(text)}); }

void Normalizer::AddReplace(std::string pattern, std::string content) {
  OCTAVO_CHECK(!pattern.empty());
  steps_.emplace_back(Replace{std::move(pattern), std::move(content)});
}

void Normalizer::AddNormalForm(NormalForm form) { steps_.emplace_back(form); }

void Normalizer::AddSentencePiece(SentencePieceNormalizer step) {
  steps_.emplace_back(std::move(step));
}

absl::StatusOr<std::string> Normalizer::Run(std::string_view text) const {
  std::string out(text);
  for (const auto& step : steps_) {
    std::optional<std::string> made;
    if (const auto* prepend = std::get_if<Prepend>(&step)) {
      made = out.empty() ? "" : prepend->text + out;
    } else if (const auto* replace = std::get_if<Replace>(&step)) {
      made = ReplaceAll(out, replace->pattern, replace->content, kNormalizedBytesMax);
    } else if (const auto* sentencepiece = std::get_if<SentencePieceNormalizer>(&step)) {
      made = sentencepiece->Run(out, kNormalizedBytesMax);
    } else {
      made = Normalized(out, std::get<NormalForm>(step));
    }
    if (!made || made->size() > kNormalizedBytesMax) {
      return MakeError(
          Reason::kBadRequest,
          fmt::format("the normalizer makes more than {} bytes of this text", kNormalizedBytesMax),
          {}, "Send shorter text");
    }
    out = *std::move(made);
  }
  return out;
}

}  // namespace octavo
