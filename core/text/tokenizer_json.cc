#include "core/text/tokenizer_json.h"

#include <charconv>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/text/json_bounded.h"
#include "core/text/tokenizer_components.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::json;

absl::StatusOr<int32_t> ReadId(const Json& id, std::string_view token) {
  if (!id.is_number_unsigned() || id.get<uint64_t>() >= kVocabularyMax) {
    return TokenizerError(
        fmt::format("the id of \"{}\" is not a number below {}", token, kVocabularyMax));
  }
  return static_cast<int32_t>(id.get<uint64_t>());
}

absl::Status ReadVocabulary(const Json& model, TokenizerParts* parts, IdsByToken* ids) {
  const Json& vocab = MemberOrNull(model, "vocab");
  if (!vocab.is_object() || vocab.empty() || vocab.size() > kVocabularyMax) {
    return TokenizerError(
        fmt::format("the model's \"vocab\" is not an object of 1 to {} members", kVocabularyMax));
  }
  ids->reserve(vocab.size());
  for (const auto& [token, id_value] : vocab.items()) {
    OCTAVO_ASSIGN_OR_RETURN(const int32_t id, ReadId(id_value, token));
    OCTAVO_RETURN_IF_ERROR(ClaimId(id, token, kTokenizerJson, parts));
    ids->emplace(token, id);
  }
  parts->in_model.resize(parts->written.size());
  for (const auto& [token, id] : *ids) parts->in_model[static_cast<size_t>(id)] = true;
  return absl::OkStatus();
}

// Both spellings: "a b" and ["a", "b"].
absl::StatusOr<std::pair<std::string, std::string>> ReadMerge(const Json& merge, size_t rank) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != text.npos && text.find(' ', space + 1) == text.npos) {
      return std::pair(text.substr(0, space), text.substr(space + 1));
    }
  }
  return TokenizerError(fmt::format("merge {} is neither \"a b\" nor [\"a\", \"b\"]", rank));
}

absl::Status ReadMerges(const Json& model, const IdsByToken& ids, BpeMerges* out) {
  const Json& merges = MemberOrNull(model, "merges");
  if (!merges.is_array() || merges.size() > kMergesMax) {
    return TokenizerError(
        fmt::format("the model's \"merges\" is not a list of at most {}", kMergesMax));
  }
  out->Reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    OCTAVO_ASSIGN_OR_RETURN(const auto pair, ReadMerge(merges[rank], rank));
    const auto left = ids.find(pair.first);
    const auto right = ids.find(pair.second);
    const auto joined = ids.find(pair.first + pair.second);
    if (left == ids.end() || right == ids.end() || joined == ids.end()) {
      return TokenizerError(fmt::format(
          "merge {} (\"{}\" and \"{}\") uses or makes a token that is not in the vocabulary", rank,
          pair.first, pair.second));
    }
    out->Add(left->second, right->second, joined->second, static_cast<uint32_t>(rank));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const Json& model, TokenizerParts* parts, IdsByToken* ids) {
  if (!model.is_object()) return TokenizerError("there is no \"model\"");
  const Json& type = MemberOrNull(model, "type");
  if (!type.is_null() && type != "BPE") {
    return TokenizerUnsupported(fmt::format("the model {}", type.dump()));
  }
  OCTAVO_RETURN_IF_ERROR(CheckMembers(
      model, "the model", kTokenizerJson,
      {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
       "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  const Json& dropout = MemberOrNull(model, "dropout");
  if (!dropout.is_null() && dropout != 0) return TokenizerUnsupported("dropout");
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json& affix = MemberOrNull(model, name);
    if (!affix.is_null() && affix != "") return TokenizerUnsupported(name);
  }
  OCTAVO_ASSIGN_OR_RETURN(const bool byte_fallback, ReadBool(model, "byte_fallback", false));
  if (byte_fallback && parts->symbols == SymbolKind::kBytes) {
    return TokenizerUnsupported("byte_fallback with the pre-tokenizer ByteLevel");
  }
  parts->byte_fallback = byte_fallback;
  OCTAVO_ASSIGN_OR_RETURN(parts->fuse_unknown, ReadBool(model, "fuse_unk", false));
  OCTAVO_ASSIGN_OR_RETURN(parts->ignore_merges, ReadBool(model, "ignore_merges", false));
  OCTAVO_RETURN_IF_ERROR(ReadVocabulary(model, parts, ids));
  const Json& unknown = MemberOrNull(model, "unk_token");
  if (!unknown.is_null()) {
    const auto found = unknown.is_string() ? ids->find(unknown.get<std::string>()) : ids->end();
    if (found == ids->end()) return TokenizerError("the unk_token is not in the vocabulary");
    parts->unknown_id = found->second;
  }
  return ReadMerges(model, *ids, &parts->merges);
}

// One entry of "added_tokens", or of added_tokens_decoder (whose key is the id).
absl::Status ReadAddedToken(const Json& entry, const Json& id_value, TokenizerParts* parts,
                            IdsByToken* ids) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string content, ReadString(entry, "content"));
  if (content.empty()) return absl::OkStatus();  // never matches anything
  OCTAVO_ASSIGN_OR_RETURN(const int32_t id, ReadId(id_value, content));
  if (content.size() > kAddedTokenBytesMax) {
    return TokenizerError(fmt::format("the added token {} has {} bytes; at most {}", id,
                                      content.size(), kAddedTokenBytesMax));
  }
  const auto known = ids->find(content);
  if (known != ids->end() && known->second != id) {
    return TokenizerError(fmt::format("the added token \"{}\" has id {} but the vocabulary says {}",
                                      content, id, known->second));
  }
  OCTAVO_RETURN_IF_ERROR(ClaimId(id, content, kTokenizerJson, parts));
  ids->emplace(content, id);
  AddedTokenRule token;
  token.id = id;
  token.content = content;
  OCTAVO_ASSIGN_OR_RETURN(token.special, ReadBool(entry, "special", false));
  OCTAVO_ASSIGN_OR_RETURN(token.single_word, ReadBool(entry, "single_word", false));
  OCTAVO_ASSIGN_OR_RETURN(token.lstrip, ReadBool(entry, "lstrip", false));
  OCTAVO_ASSIGN_OR_RETURN(token.rstrip, ReadBool(entry, "rstrip", false));
  OCTAVO_ASSIGN_OR_RETURN(token.normalized, ReadBool(entry, "normalized", !token.special));
  std::string matched = content;
  if (token.normalized) {
    OCTAVO_ASSIGN_OR_RETURN(matched, parts->normalizer.Run(content));
    if (matched.size() > kAddedTokenBytesMax) {
      return TokenizerError(
          fmt::format("the added token {} has {} bytes when normalized; at most {}", id,
                      matched.size(), kAddedTokenBytesMax));
    }
  }
  parts->added.Add(std::move(token), matched);
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const Json& list, TokenizerParts* parts, IdsByToken* ids,
                             IdsByToken* added) {
  if (list.is_null()) return absl::OkStatus();
  if (!list.is_array() || list.size() > kAddedTokensMax) {
    return TokenizerError(
        fmt::format("\"added_tokens\" is not a list of at most {}", kAddedTokensMax));
  }
  for (const Json& entry : list) {
    OCTAVO_ASSIGN_OR_RETURN(const std::string content, ReadString(entry, "content"));
    OCTAVO_RETURN_IF_ERROR(CheckMembers(
        entry, fmt::format("the added token \"{}\"", content), kTokenizerJson,
        {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
    if (!added->emplace(content, 0).second) {
      return TokenizerError(fmt::format("the added token \"{}\" is there twice", content));
    }
    OCTAVO_RETURN_IF_ERROR(ReadAddedToken(entry, MemberOrNull(entry, "id"), parts, ids));
  }
  return absl::OkStatus();
}

// tokenizer_config.json may know tokens that tokenizer.json does not.
absl::Status ReadAddedTokensDecoder(std::string_view config_json, TokenizerParts* parts,
                                    IdsByToken* ids, IdsByToken* added) {
  if (config_json.empty()) return absl::OkStatus();
  constexpr std::string_view kFile = "tokenizer_config.json";
  OCTAVO_ASSIGN_OR_RETURN(const Json config, ParseBoundedJson(config_json, kFile, kConfigFileMax));
  const Json& decoder = MemberOrNull(config, "added_tokens_decoder");
  if (decoder.is_null()) return absl::OkStatus();
  if (!decoder.is_object() || decoder.size() > kAddedTokensMax) {
    return MakeError(Reason::kBadCheckpoint, "added_tokens_decoder is not an object",
                     {.file = kFile});
  }
  for (const auto& [id_text, entry] : decoder.items()) {
    const Json& content = MemberOrNull(entry, "content");
    if (!content.is_string()) {
      return MakeError(Reason::kBadCheckpoint,
                       fmt::format("entry {} of added_tokens_decoder has no content", id_text),
                       {.file = kFile});
    }
    if (!added->emplace(content.get<std::string>(), 0).second) continue;
    Json id;
    uint64_t number = 0;
    const char* end = id_text.data() + id_text.size();
    if (const auto read = std::from_chars(id_text.data(), end, number);
        read.ec == std::errc() && read.ptr == end) {
      id = number;
    }
    OCTAVO_RETURN_IF_ERROR(ReadAddedToken(entry, id, parts, ids));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerParts> ParseTokenizerJson(std::string_view tokenizer_json,
                                                  std::string_view tokenizer_config_json) {
  OCTAVO_ASSIGN_OR_RETURN(const Json root,
                          ParseBoundedJson(tokenizer_json, kTokenizerJson, kTokenizerFileMax));
  if (!root.is_object()) return TokenizerError("not a JSON object");
  OCTAVO_RETURN_IF_ERROR(
      CheckMembers(root, "the file", kTokenizerJson,
                   {"version", "truncation", "padding", "added_tokens", "normalizer",
                    "pre_tokenizer", "post_processor", "decoder", "model"}));
  const Json& version = MemberOrNull(root, "version");
  if (!version.is_null() && version != "1.0") {
    return TokenizerUnsupported(fmt::format("version {}", version.dump()));
  }
  TokenizerParts parts;
  IdsByToken ids;
  IdsByToken added;
  OCTAVO_RETURN_IF_ERROR(ReadNormalizer(MemberOrNull(root, "normalizer"), &parts.normalizer));
  OCTAVO_RETURN_IF_ERROR(ReadPreTokenizer(MemberOrNull(root, "pre_tokenizer"), &parts));
  OCTAVO_RETURN_IF_ERROR(ReadDecoder(MemberOrNull(root, "decoder"), &parts));
  OCTAVO_RETURN_IF_ERROR(ReadModel(MemberOrNull(root, "model"), &parts, &ids));
  OCTAVO_RETURN_IF_ERROR(ReadAddedTokens(MemberOrNull(root, "added_tokens"), &parts, &ids, &added));
  OCTAVO_RETURN_IF_ERROR(ReadAddedTokensDecoder(tokenizer_config_json, &parts, &ids, &added));
  OCTAVO_RETURN_IF_ERROR(ReadPostProcessor(MemberOrNull(root, "post_processor"), &parts));
  return parts;
}

}  // namespace octavo
