#include "core/text/text_bundle.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/text/json_bounded.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::json;
constexpr std::string_view kTokenizerConfig = "tokenizer_config.json";
constexpr size_t kEosIdsMax = 64;

// Null for a file that is not there.
absl::StatusOr<Json> ParseOptional(std::string_view bytes, std::string_view file) {
  if (bytes.empty()) return Json();
  OCTAVO_ASSIGN_OR_RETURN(Json root, ParseBoundedJson(bytes, file, kConfigFileMax));
  if (!root.is_object()) {
    return MakeError(Reason::kBadCheckpoint, "not a JSON object", {.file = file});
  }
  return root;
}

// "bos_token": a string, an object with "content", or null.
absl::StatusOr<std::optional<std::string>> TokenText(const Json& config, std::string_view name) {
  const Json& member = MemberOrNull(config, name);
  if (member.is_null()) return std::nullopt;
  const Json& text = member.is_object() ? MemberOrNull(member, "content") : member;
  if (!text.is_string()) {
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("\"{}\" is neither a string nor an object with content", name),
                     {.file = kTokenizerConfig});
  }
  return text.get<std::string>();
}

// The text of a string, or of the entry called default of a list of {name, template}; else empty.
std::string TemplateIn(const Json& config) {
  const Json* found = &MemberOrNull(config, "chat_template");
  if (found->is_array()) {
    const auto entry = std::find_if(found->begin(), found->end(), [](const Json& candidate) {
      return MemberOrNull(candidate, "name") == "default";
    });
    if (entry == found->end()) return "";
    found = &MemberOrNull(*entry, "template");
  }
  return found->is_string() ? found->get<std::string>() : "";
}

// The named tokens of a tokenizer, as a template sees them.
absl::StatusOr<SpecialTokens> ReadSpecialTokens(const Json& config) {
  SpecialTokens tokens;
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    OCTAVO_ASSIGN_OR_RETURN(auto text, TokenText(config, name));
    if (text) tokens.emplace(name, *std::move(text));
  }
  return tokens;
}

std::string TextOrEmpty(const SpecialTokens& tokens, const std::string& name) {
  const auto found = tokens.find(name);
  return found == tokens.end() ? "" : found->second;
}

void SetChatTemplate(const TextFiles& files, const Json& config, SpecialTokens tokens,
                     TextBundle* bundle) {
  std::string text(files.chat_template_jinja);
  std::string_view file = "chat_template.jinja";
  if (text.empty()) {
    text = TemplateIn(config);
    file = kTokenizerConfig;
  }
  if (text.empty()) {
    bundle->chat_template_error = MakeError(Reason::kUnsupported, "this model has no chat template",
                                            {}, "It is a base model: send text, not messages");
    return;
  }
  auto chat_template = ChatTemplate::FromText(text, std::move(tokens));
  if (chat_template.ok()) {
    bundle->chat_template = *std::move(chat_template);
  } else {
    bundle->chat_template_error = WithContext(chat_template.status(), file);
  }
}

// "eos_token_id": a number or a list of numbers; empty when it is missing.
absl::StatusOr<std::vector<int32_t>> EosIds(const Json& config, std::string_view file) {
  const Json& member = MemberOrNull(config, "eos_token_id");
  std::vector<int32_t> ids;
  if (member.is_null()) return ids;
  const Json list = member.is_array() ? member : Json::array({member});
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX || ids.size() == kEosIdsMax) {
      return MakeError(
          Reason::kBadCheckpoint,
          fmt::format("\"eos_token_id\" is not an id or a list of at most {}", kEosIdsMax),
          {.file = file});
    }
    ids.push_back(static_cast<int32_t>(id.get<uint64_t>()));
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerOf(const TextFiles& files) {
  if (files.tokenizer_json.empty() && !files.tokenizer_model.empty()) {
    return LoadSentencePieceTokenizer(files.tokenizer_model, files.tokenizer_config_json);
  }
  return LoadTokenizer(files.tokenizer_json, files.tokenizer_config_json);
}

}  // namespace

absl::StatusOr<TextBundle> LoadTextBundle(const TextFiles& files) {
  TextBundle bundle;
  OCTAVO_ASSIGN_OR_RETURN(bundle.tokenizer, TokenizerOf(files));
  OCTAVO_ASSIGN_OR_RETURN(const Json config,
                          ParseOptional(files.tokenizer_config_json, kTokenizerConfig));
  OCTAVO_ASSIGN_OR_RETURN(SpecialTokens tokens, ReadSpecialTokens(config));
  bundle.bos_text = TextOrEmpty(tokens, "bos_token");
  bundle.eos_text = TextOrEmpty(tokens, "eos_token");
  bundle.bos_id = bundle.tokenizer->TokenId(bundle.bos_text);
  SetChatTemplate(files, config, std::move(tokens), &bundle);

  const std::array<std::pair<std::string_view, std::string_view>, 2> places = {
      {{files.generation_config_json, "generation_config.json"},
       {files.config_json, "config.json"}}};
  for (const auto& [bytes, file] : places) {
    OCTAVO_ASSIGN_OR_RETURN(const Json place, ParseOptional(bytes, file));
    OCTAVO_ASSIGN_OR_RETURN(std::vector<int32_t> ids, EosIds(place, file));
    if (bundle.eos_ids.empty()) bundle.eos_ids = std::move(ids);
  }
  if (bundle.eos_ids.empty()) {
    if (const auto id = bundle.tokenizer->TokenId(bundle.eos_text)) bundle.eos_ids = {*id};
  }
  return bundle;
}

}  // namespace octavo
