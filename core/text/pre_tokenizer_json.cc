#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/tokenizer_components.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::json;

// What ByteLevel splits by when use_regex is on: GPT-2's pattern.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

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

absl::StatusOr<PrependScheme> ReadPrependScheme(const Json& step) {
  const Json& name = MemberOrNull(step, "prepend_scheme");
  PrependScheme scheme = PrependScheme::kAlways;
  if (name == "first") {
    scheme = PrependScheme::kFirst;
  } else if (name == "never") {
    scheme = PrependScheme::kNever;
  } else if (!name.is_null() && name != "always") {
    return TokenizerUnsupported(fmt::format("the prepend_scheme {} of Metaspace", name.dump()));
  }
  // Files from before prepend_scheme have only this.
  OCTAVO_ASSIGN_OR_RETURN(const bool prefix_space, ReadBool(step, "add_prefix_space", true));
  if (!prefix_space && scheme != PrependScheme::kNever) {
    return TokenizerError("add_prefix_space and prepend_scheme of Metaspace contradict each other");
  }
  return scheme;
}

absl::Status ReadMetaspace(const Json& step, PreTokenizer* out) {
  OCTAVO_RETURN_IF_ERROR(CheckMembers(
      step, "the pre-tokenizer Metaspace", kTokenizerJson,
      {"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"}));
  if (!out->empty()) return TokenizerUnsupported("the pre-tokenizer Metaspace after another");
  OCTAVO_ASSIGN_OR_RETURN(std::string mark, ReadStepText(MemberOrNull(step, "replacement"),
                                                         "pre-tokenizer Metaspace", 1));
  if (mark != LastCharacter(mark)) {
    return TokenizerError("the replacement of Metaspace is not one character");
  }
  OCTAVO_ASSIGN_OR_RETURN(const PrependScheme scheme, ReadPrependScheme(step));
  OCTAVO_ASSIGN_OR_RETURN(const bool split, ReadBool(step, "split", true));
  out->SetMetaspace(std::move(mark), scheme, split);
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadPreTokenizer(const Json& pre_tokenizer, TokenizerParts* parts) {
  parts->symbols = SymbolKind::kCharacters;
  if (pre_tokenizer.is_null()) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                          StepsOf(pre_tokenizer, "pre-tokenizer", "pretokenizers"));
  PreTokenizer* out = &parts->pre_tokenizer;
  for (const Json* step : steps) {
    OCTAVO_ASSIGN_OR_RETURN(const std::string type, ReadString(*step, "type"));
    if (parts->symbols == SymbolKind::kBytes) {
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
      parts->symbols = SymbolKind::kBytes;
    } else if (type == "Metaspace") {
      OCTAVO_RETURN_IF_ERROR(ReadMetaspace(*step, out));
    } else {
      return TokenizerUnsupported(fmt::format("the pre-tokenizer {}", type));
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo
