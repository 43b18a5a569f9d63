#include "core/text/tokenizer_components.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::json;

// What ByteLevel splits by when use_regex is on: GPT-2's pattern.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The components of a Sequence, or the component itself. `list` is the name of the member.
absl::StatusOr<std::vector<const Json*>> Flatten(const Json& component, std::string_view what,
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

absl::Status ReadSplit(const Json& step, PreTokenizer* out) {
  OCTAVO_RETURN_IF_ERROR(CheckMembers(step, "the pre-tokenizer Split", kTokenizerJson,
                                      {"type", "pattern", "behavior", "invert"}));
  const Json& pattern = MemberOrNull(step, "pattern");
  if (!pattern.is_object() || pattern.size() != 1 || !pattern.begin()->is_string()) {
    return TokenizerError("the pattern of the pre-tokenizer Split is not {\"Regex\": ...}");
  }
  const auto& text = pattern.begin()->get_ref<const std::string&>();
  if (pattern.begin().key() != "Regex" && pattern.begin().key() != "String") {
    return TokenizerUnsupported(
        fmt::format("the pattern \"{}\" of the pre-tokenizer Split", pattern.begin().key()));
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::string behavior, ReadString(step, "behavior"));
  OCTAVO_ASSIGN_OR_RETURN(const bool invert, ReadBool(step, "invert", false));
  if (behavior != "Isolated" && behavior != "Removed") {
    return TokenizerUnsupported(
        fmt::format("the behavior \"{}\" of the pre-tokenizer Split", behavior));
  }
  auto regex =
      pattern.begin().key() == "Regex" ? Regex::Compile(text) : Regex::CompileLiteral(text);
  if (!regex.ok()) return regex.status();
  // Removed drops the matches, or with `invert` everything but the matches.
  const bool removed = behavior == "Removed";
  out->AddSplit(*std::move(regex), !removed || invert, !removed || !invert);
  return absl::OkStatus();
}

absl::Status ReadByteLevel(const Json& step, PreTokenizer* out) {
  OCTAVO_RETURN_IF_ERROR(CheckMembers(step, "the pre-tokenizer ByteLevel", kTokenizerJson,
                                      {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  OCTAVO_ASSIGN_OR_RETURN(const bool prefix_space, ReadBool(step, "add_prefix_space", true));
  OCTAVO_ASSIGN_OR_RETURN(const bool use_regex, ReadBool(step, "use_regex", true));
  if (prefix_space) out->AddPrefixSpace();
  if (!use_regex) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kGpt2Pattern));
  out->AddSplit(std::move(regex), true, true);
  return absl::OkStatus();
}

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
                   {.file = kTokenizerJson}, "Octavo reads byte-level BPE tokenizers");
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

absl::Status CheckNormalizer(const Json& normalizer) {
  if (normalizer.is_null()) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                          Flatten(normalizer, "normalizer", "normalizers"));
  if (steps.empty()) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(const std::string type, ReadString(*steps[0], "type"));
  return TokenizerUnsupported(fmt::format("the normalizer {}", type));
}

absl::Status ReadPreTokenizer(const Json& pre_tokenizer, PreTokenizer* out) {
  if (pre_tokenizer.is_null()) return TokenizerUnsupported("a missing pre-tokenizer");
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                          Flatten(pre_tokenizer, "pre-tokenizer", "pretokenizers"));
  bool byte_level = false;
  for (const Json* step : steps) {
    OCTAVO_ASSIGN_OR_RETURN(const std::string type, ReadString(*step, "type"));
    if (byte_level) {
      return TokenizerUnsupported(fmt::format("the pre-tokenizer {} after ByteLevel", type));
    }
    if (type == "Split") {
      OCTAVO_RETURN_IF_ERROR(ReadSplit(*step, out));
    } else if (type == "Digits") {
      OCTAVO_RETURN_IF_ERROR(CheckMembers(*step, "the pre-tokenizer Digits", kTokenizerJson,
                                          {"type", "individual_digits"}));
      OCTAVO_ASSIGN_OR_RETURN(const bool individual, ReadBool(*step, "individual_digits", false));
      out->AddSplit(Regex::Digits(individual), true, true);
    } else if (type == "ByteLevel") {
      OCTAVO_RETURN_IF_ERROR(ReadByteLevel(*step, out));
      byte_level = true;
    } else {
      return TokenizerUnsupported(fmt::format("the pre-tokenizer {}", type));
    }
  }
  if (!byte_level) return TokenizerUnsupported("a pre-tokenizer without ByteLevel");
  return absl::OkStatus();
}

absl::Status CheckDecoder(const Json& decoder) {
  if (decoder.is_null()) return TokenizerUnsupported("a missing decoder");
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                          Flatten(decoder, "decoder", "decoders"));
  if (steps.size() != 1) {
    return TokenizerUnsupported(fmt::format("a decoder of {} steps", steps.size()));
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::string type, ReadString(*steps[0], "type"));
  if (type != "ByteLevel") return TokenizerUnsupported(fmt::format("the decoder {}", type));
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const Json& post_processor, TokenizerParts* parts) {
  if (post_processor.is_null()) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                          Flatten(post_processor, "post-processor", "processors"));
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
