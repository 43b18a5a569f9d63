#include "core/text/tokenizer_components.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::json;

absl::Status ReadTemplateToken(const Json& piece, const Json& special, TokenizerParts* parts,
                               std::vector<int32_t>* ids) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string name, ReadString(piece, "id"));
  const Json& token_ids = MemberOrNull(MemberOrNull(special, name), "ids");
  if (!token_ids.is_array()) {
    return TokenizerError(fmt::format("TemplateProcessing uses \"{}\" without its ids", name));
  }
  for (const Json& id : token_ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= parts->written.size()) {
      return TokenizerError(
          fmt::format("TemplateProcessing gives \"{}\" an id that does not exist", name));
    }
    ids->push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  if (ids->size() > kTemplateTokensMax) return TokenizerError("TemplateProcessing adds too much");
  return absl::OkStatus();
}

absl::Status ReadTemplateProcessing(const Json& step, TokenizerParts* parts) {
  OCTAVO_RETURN_IF_ERROR(CheckMembers(step, "the post-processor TemplateProcessing", kTokenizerJson,
                                      {"type", "single", "pair", "special_tokens"}));
  const Json& single = MemberOrNull(step, "single");
  if (!single.is_array()) return TokenizerError("TemplateProcessing has no \"single\"");
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  bool seen = false;
  for (const Json& piece : single) {
    if (!piece.is_object() || piece.size() != 1) {
      return TokenizerError("a piece of TemplateProcessing is not an object of one member");
    }
    const std::string& kind = piece.begin().key();
    if (kind == "Sequence" && !seen && MemberOrNull(*piece.begin(), "id") == "A") {
      seen = true;
    } else if (kind == "SpecialToken") {
      OCTAVO_RETURN_IF_ERROR(ReadTemplateToken(*piece.begin(), MemberOrNull(step, "special_tokens"),
                                               parts, seen ? &after : &before));
    } else {
      return TokenizerUnsupported(fmt::format("the piece \"{}\" of TemplateProcessing", kind));
    }
  }
  if (!seen) return TokenizerError("TemplateProcessing leaves the text out");
  parts->prefix_ids.insert(parts->prefix_ids.begin(), before.begin(), before.end());
  parts->suffix_ids.insert(parts->suffix_ids.end(), after.begin(), after.end());
  return absl::OkStatus();
}

}  // namespace

absl::Status TokenizerError(std::string_view what) {
  return MakeError(Reason::kBadCheckpoint, what, {.file = kTokenizerJson});
}

absl::Status TokenizerUnsupported(std::string_view what) {
  return MakeError(Reason::kUnsupported, fmt::format("{} is not handled", what),
                   {.file = kTokenizerJson},
                   "Octavo reads BPE tokenizers, byte-level or in the style of SentencePiece");
}

absl::StatusOr<bool> ReadBool(const Json& object, std::string_view name, bool otherwise) {
  const Json& member = MemberOrNull(object, name);
  if (member.is_null()) return otherwise;
  if (!member.is_boolean()) return TokenizerError(fmt::format("\"{}\" is not a Boolean", name));
  return member.get<bool>();
}

absl::StatusOr<std::string> ReadString(const Json& object, std::string_view name) {
  const Json& member = MemberOrNull(object, name);
  if (!member.is_string()) {
    return TokenizerError(fmt::format("\"{}\" is missing or not a string", name));
  }
  return member.get<std::string>();
}

absl::StatusOr<std::vector<const Json*>> StepsOf(const Json& component, std::string_view what,
                                                 std::string_view list) {
  if (!component.is_object()) return TokenizerError(fmt::format("the {} is not an object", what));
  OCTAVO_ASSIGN_OR_RETURN(const std::string type, ReadString(component, "type"));
  if (type != "Sequence") return std::vector<const Json*>{&component};
  OCTAVO_RETURN_IF_ERROR(
      CheckMembers(component, fmt::format("the {}", what), kTokenizerJson, {"type", list}));
  const Json& members = MemberOrNull(component, list);
  if (!members.is_array() || members.size() > kStepsMax) {
    return TokenizerError(
        fmt::format("the {}'s \"{}\" is not a list of at most {}", what, list, kStepsMax));
  }
  std::vector<const Json*> out;
  for (const Json& member : members) out.push_back(&member);
  return out;
}

absl::StatusOr<std::string> ReadStringPattern(const Json& step, std::string_view what) {
  const Json& pattern = MemberOrNull(step, "pattern");
  if (!pattern.is_object() || pattern.size() != 1 || !pattern.begin()->is_string()) {
    return TokenizerError(fmt::format("the pattern of the {} is not {{\"String\": ...}}", what));
  }
  if (pattern.begin().key() != "String") {
    return TokenizerUnsupported(
        fmt::format("the pattern \"{}\" of the {}", pattern.begin().key(), what));
  }
  return ReadStepText(*pattern.begin(), what, 1);
}

absl::StatusOr<std::string> ReadStepText(const Json& text, std::string_view what,
                                         size_t bytes_min) {
  const bool fits = text.is_string() && text.get_ref<const std::string&>().size() >= bytes_min &&
                    text.get_ref<const std::string&>().size() <= kStepBytesMax;
  if (!fits) {
    return TokenizerError(
        fmt::format("a text of the {} has not {} to {} bytes", what, bytes_min, kStepBytesMax));
  }
  return text.get<std::string>();
}

absl::Status ReadPostProcessor(const Json& post_processor, TokenizerParts* parts) {
  if (post_processor.is_null()) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                          StepsOf(post_processor, "post-processor", "processors"));
  for (const Json* step : steps) {
    OCTAVO_ASSIGN_OR_RETURN(const std::string type, ReadString(*step, "type"));
    if (type == "TemplateProcessing") {
      OCTAVO_RETURN_IF_ERROR(ReadTemplateProcessing(*step, parts));
    } else if (type != "ByteLevel") {  // which changes only offsets
      return TokenizerUnsupported(fmt::format("the post-processor {}", type));
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo
