#include "core/base/status.h"
#include "core/text/tokenizer_components.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::json;

absl::Status ReadStep(const Json& step, Normalizer* out) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string type, ReadString(step, "type"));
  const std::string what = fmt::format("normalizer {}", type);
  if (type == "NFC" || type == "NFKC") {
    OCTAVO_RETURN_IF_ERROR(
        CheckMembers(step, fmt::format("the {}", what), kTokenizerJson, {"type"}));
    out->AddNormalForm(type == "NFC" ? NormalForm::kNfc : NormalForm::kNfkc);
  } else if (type == "Prepend") {
    OCTAVO_RETURN_IF_ERROR(
        CheckMembers(step, fmt::format("the {}", what), kTokenizerJson, {"type", "prepend"}));
    OCTAVO_ASSIGN_OR_RETURN(std::string text, ReadStepText(MemberOrNull(step, "prepend"), what, 0));
    out->AddPrepend(std::move(text));
  } else if (type == "Replace") {
    OCTAVO_RETURN_IF_ERROR(CheckMembers(step, fmt::format("the {}", what), kTokenizerJson,
                                        {"type", "pattern", "content"}));
    OCTAVO_ASSIGN_OR_RETURN(std::string pattern, ReadStringPattern(step, what));
    OCTAVO_ASSIGN_OR_RETURN(std::string content,
                            ReadStepText(MemberOrNull(step, "content"), what, 0));
    out->AddReplace(std::move(pattern), std::move(content));
  } else {
    return TokenizerUnsupported(fmt::format("the {}", what));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadNormalizer(const Json& normalizer, Normalizer* out) {
  if (normalizer.is_null()) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                          StepsOf(normalizer, "normalizer", "normalizers"));
  for (const Json* step : steps) OCTAVO_RETURN_IF_ERROR(ReadStep(*step, out));
  return absl::OkStatus();
}

}  // namespace octavo
