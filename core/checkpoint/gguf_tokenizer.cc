#include "core/checkpoint/gguf_tokenizer.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/printable.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kControlToken = 3;
constexpr int64_t kUserToken = 4;

constexpr std::string_view kByteLevelGpt2 =
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
constexpr std::string_view kByteLevelOnly =
    R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false})";
constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// How text is split before merging, by the value of tokenizer.ggml.pre.
struct PreRow {
  std::string_view name;
  enum Kind { kGpt2, kDigitsGpt2, kRegex } kind;
  std::string_view regex = {};
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos_default = false;
};
constexpr PreRow kPreRows[] = {
    {"default", PreRow::kGpt2},
    {"gpt-2", PreRow::kGpt2},
    {"smollm", PreRow::kDigitsGpt2},
    {"llama-bpe", PreRow::kRegex, kLlama3Regex, false, true, true},
    {"llama3", PreRow::kRegex, kLlama3Regex, false, true, true},
    {"qwen2", PreRow::kRegex, kQwen2Regex, true},
};

std::string PreTokenizerJson(const PreRow& row) {
  if (row.kind == PreRow::kGpt2) return std::string(kByteLevelGpt2);
  const std::string first = row.kind == PreRow::kDigitsGpt2
                                ? R"({"type":"Digits","individual_digits":true})"
                                : fmt::format(R"({{"type":"Split","pattern":{{"Regex":{}}},)"
                                              R"("behavior":"Isolated","invert":false}})",
                                              Json(row.regex).dump());
  return fmt::format(R"({{"type":"Sequence","pretokenizers":[{},{}]}})", first,
                     row.kind == PreRow::kDigitsGpt2 ? kByteLevelGpt2 : kByteLevelOnly);
}

bool IsUtf8(const std::string& text) {
  // The writer of JSON knows; it throws on what is invalid.
  try {
    (void)Json(text).dump();
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

// What the metadata says, checked.
struct Vocabulary {
  const std::vector<std::string>* tokens = nullptr;
  const std::vector<int64_t>* types = nullptr;
  const std::vector<std::string>* merges = nullptr;
};

absl::Status CheckMerges(const Vocabulary& vocab) {
  absl::flat_hash_map<std::string_view, size_t> ids;
  for (size_t i = 0; i < vocab.tokens->size(); ++i) {
    const std::string& token = (*vocab.tokens)[i];
    if (!IsUtf8(token)) return BadGguf(fmt::format("token {} is no UTF-8", i));
    if (!ids.emplace(token, i).second) {
      return BadGguf(
          fmt::format("tokens {} and {} are the same: {}", ids[token], i, Printable(token)));
    }
  }
  for (size_t i = 0; i < vocab.merges->size(); ++i) {
    const std::string& merge = (*vocab.merges)[i];
    const size_t space = merge.find(' ');
    if (space == std::string::npos || merge.find(' ', space + 1) != std::string::npos) {
      return BadGguf(fmt::format("merge {} is no pair: {}", i, Printable(merge)));
    }
    const std::string joined = merge.substr(0, space) + merge.substr(space + 1);
    const std::string_view left = std::string_view(merge).substr(0, space);
    const std::string_view right = std::string_view(merge).substr(space + 1);
    if (!ids.contains(left) || !ids.contains(right) || !ids.contains(joined)) {
      return BadGguf(fmt::format("merge {} names an unknown token: {}", i, Printable(merge)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Vocabulary> ReadVocabulary(const GgufFile& file) {
  OCTAVO_ASSIGN_OR_RETURN(const auto model, GgufString(file, "tokenizer.ggml.model"));
  if (model.value_or("") != "gpt2") {
    return MakeError(
        Reason::kUnsupported,
        fmt::format("tokenizer model \"{}\" is not supported yet", Printable(model.value_or(""))),
        {}, "Supported: gpt2 (byte-level BPE)");
  }
  Vocabulary vocab;
  OCTAVO_ASSIGN_OR_RETURN(vocab.tokens, GgufStrings(file, "tokenizer.ggml.tokens"));
  OCTAVO_ASSIGN_OR_RETURN(vocab.types, GgufInts(file, "tokenizer.ggml.token_type"));
  OCTAVO_ASSIGN_OR_RETURN(vocab.merges, GgufStrings(file, "tokenizer.ggml.merges"));
  if (vocab.tokens == nullptr || vocab.tokens->empty() || vocab.merges == nullptr) {
    return BadGguf("metadata tokenizer.ggml.tokens or tokenizer.ggml.merges is missing");
  }
  if (vocab.types != nullptr && vocab.types->size() != vocab.tokens->size()) {
    return BadGguf(
        fmt::format("{} token types for {} tokens", vocab.types->size(), vocab.tokens->size()));
  }
  OCTAVO_RETURN_IF_ERROR(CheckMerges(vocab));
  return vocab;
}

absl::StatusOr<const PreRow*> FindPre(const GgufFile& file) {
  OCTAVO_ASSIGN_OR_RETURN(const auto pre, GgufString(file, "tokenizer.ggml.pre"));
  std::string known;
  for (const PreRow& row : kPreRows) {
    if (row.name == pre.value_or("default")) return &row;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  return MakeError(Reason::kUnsupported,
                   fmt::format("tokenizer.ggml.pre \"{}\" is not supported yet", Printable(*pre)),
                   {}, fmt::format("Supported: {}", known));
}

std::vector<AddedToken> AddedTokens(const Vocabulary& vocab) {
  std::vector<AddedToken> added;
  if (vocab.types == nullptr) return added;
  for (size_t i = 0; i < vocab.tokens->size(); ++i) {
    const int64_t type = (*vocab.types)[i];
    if (type != kControlToken && type != kUserToken) continue;
    added.push_back({static_cast<int32_t>(i), (*vocab.tokens)[i], type == kControlToken});
  }
  return added;
}

std::string AddedTokenJson(const AddedToken& token, bool with_id) {
  const std::string id = with_id ? fmt::format(R"("id":{},)", token.id) : "";
  return fmt::format(R"({{{}"content":{},"single_word":false,"lstrip":false,"rstrip":false,)"
                     R"("normalized":false,"special":{}}})",
                     id, Json(token.content).dump(), token.special);
}

// Name in the Hugging Face files -> text, of the tokens that have a function.
absl::StatusOr<Json> NamedTokens(const GgufFile& file, const Vocabulary& vocab) {
  constexpr std::pair<const char*, const char*> kKeys[] = {
      {"bos_token", "tokenizer.ggml.bos_token_id"},
      {"eos_token", "tokenizer.ggml.eos_token_id"},
      {"unk_token", "tokenizer.ggml.unknown_token_id"},
      {"pad_token", "tokenizer.ggml.padding_token_id"},
  };
  Json named = Json::object();
  for (const auto& [name, key] : kKeys) {
    OCTAVO_ASSIGN_OR_RETURN(const auto id, GgufInt(file, key));
    if (!id) continue;
    if (*id < 0 || static_cast<uint64_t>(*id) >= vocab.tokens->size()) {
      return BadGguf(fmt::format("{} {} is outside the vocabulary", key, *id));
    }
    named[name] = (*vocab.tokens)[static_cast<size_t>(*id)];
  }
  return named;
}

std::string BosPostProcessor(const std::string& content, int64_t id) {
  const std::string text = Json(content).dump();
  const std::string token = fmt::format(R"({{"SpecialToken":{{"id":{},"type_id":0}}}})", text);
  return fmt::format(
      R"({{"type":"TemplateProcessing","single":[{0},{{"Sequence":{{"id":"A","type_id":0}}}}],)"
      R"("pair":[{0},{{"Sequence":{{"id":"A","type_id":0}}}},)"
      R"({{"Sequence":{{"id":"B","type_id":1}}}}],)"
      R"("special_tokens":{{{1}:{{"id":{1},"ids":[{2}],"tokens":[{1}]}}}}}})",
      token, text, id);
}

absl::StatusOr<std::string> ConfigJson(const GgufFile& file, const Json& named,
                                       std::span<const AddedToken> added, bool add_bos) {
  Json config;
  config["add_bos_token"] = add_bos;
  config["add_prefix_space"] = false;
  config["added_tokens_decoder"] = Json::object();
  for (const AddedToken& token : added) {
    config["added_tokens_decoder"][std::to_string(token.id)] =
        Json::parse(AddedTokenJson(token, /*with_id=*/false));
  }
  for (const auto& [name, text] : named.items()) config[name] = text;
  OCTAVO_ASSIGN_OR_RETURN(const auto chat, GgufString(file, "tokenizer.chat_template"));
  if (chat) {
    if (!IsUtf8(*chat)) return BadGguf("tokenizer.chat_template is no UTF-8");
    config["chat_template"] = *chat;
  }
  config["clean_up_tokenization_spaces"] = false;
  OCTAVO_ASSIGN_OR_RETURN(const auto context, GgufInt(file, "llama.context_length"));
  if (context) config["model_max_length"] = *context;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  return JsonText(config);
}

}  // namespace

std::string ByteCharacter(uint8_t byte) {
  auto stays = [](int b) { return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad); };
  int code = byte;
  if (!stays(byte)) {
    code = 0x100;
    for (int b = 0; b < byte; ++b) code += stays(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

std::string TokenizerJson(const BpeParts& parts) {
  std::string text = R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)";
  std::string_view separator = "";
  for (const AddedToken& token : parts.added) {
    text += separator;
    text += AddedTokenJson(token, /*with_id=*/true);
    separator = ",";
  }
  text += fmt::format(R"(],"normalizer":{},"pre_tokenizer":{},"post_processor":{},)",
                      parts.normalizer_json, parts.pre_tokenizer_json, parts.post_processor_json);
  text += R"("decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,)"
          R"("use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,)"
          R"("continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,)";
  text +=
      fmt::format(R"("byte_fallback":false,"ignore_merges":{},"vocab":{{)", parts.ignore_merges);
  for (size_t i = 0; i < parts.tokens.size(); ++i) {
    text += fmt::format("{}{}:{}", i == 0 ? "" : ",", Json(parts.tokens[i]).dump(), i);
  }
  text += R"(},"merges":[)";
  for (size_t i = 0; i < parts.merges.size(); ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ",", Json(parts.merges[i]).dump());
  }
  return text + "]}}\n";
}

absl::StatusOr<TokenizerFiles> GgufTokenizer(const GgufFile& file) {
  OCTAVO_ASSIGN_OR_RETURN(const Vocabulary vocab, ReadVocabulary(file));
  OCTAVO_ASSIGN_OR_RETURN(const PreRow* pre, FindPre(file));
  OCTAVO_ASSIGN_OR_RETURN(const Json named, NamedTokens(file, vocab));
  OCTAVO_ASSIGN_OR_RETURN(const auto add_bos_said, GgufBool(file, "tokenizer.ggml.add_bos_token"));
  OCTAVO_ASSIGN_OR_RETURN(const auto bos, GgufInt(file, "tokenizer.ggml.bos_token_id"));
  const bool add_bos = add_bos_said.value_or(pre->add_bos_default) && bos.has_value();
  BpeParts parts;
  parts.tokens = *vocab.tokens;
  parts.merges = *vocab.merges;
  parts.added = AddedTokens(vocab);
  parts.pre_tokenizer_json = PreTokenizerJson(*pre);
  if (pre->nfc) parts.normalizer_json = R"({"type":"NFC"})";
  if (add_bos) {
    parts.post_processor_json = BosPostProcessor(named["bos_token"].get<std::string>(), *bos);
  }
  parts.ignore_merges = pre->ignore_merges;
  TokenizerFiles files;
  OCTAVO_ASSIGN_OR_RETURN(files.tokenizer_config_json,
                          ConfigJson(file, named, parts.added, add_bos));
  files.tokenizer_json = TokenizerJson(parts);
  files.special_tokens_map_json = JsonText(named);
  return files;
}

}  // namespace octavo
