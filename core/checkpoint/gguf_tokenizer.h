#pragma once

// The tokenizer inside a GGUF file, as Hugging Face files. Only byte-level BPE
// (tokenizer.ggml.model "gpt2").

#include <string>

#include "absl/status/statusor.h"
#include "core/checkpoint/gguf.h"

namespace octavo {

struct TokenizerFiles {
  std::string tokenizer_json;
  std::string tokenizer_config_json;  // with the chat template, when the file has one
  std::string special_tokens_map_json;
};

// kUnsupported: another tokenizer model, or a tokenizer.ggml.pre whose rules are not in our table;
// kBadCheckpoint: duplicate tokens, merges of unknown tokens, ids outside the vocabulary, invalid
// UTF-8.
absl::StatusOr<TokenizerFiles> GgufTokenizer(const GgufFile& file);

// The text of a byte-level BPE tokenizer.json; also used for synthetic models.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = true;
};
struct BpeParts {
  std::vector<std::string> tokens;  // index = id, byte-level alphabet
  std::vector<std::string> merges;  // "left right"
  std::vector<AddedToken> added;
  std::string normalizer_json = "null";
  std::string pre_tokenizer_json;
  std::string post_processor_json = "null";
  bool ignore_merges = false;
};
std::string TokenizerJson(const BpeParts& parts);

// GPT-2's alphabet of bytes: the character (UTF-8) that stands for each byte.
std::string ByteCharacter(uint8_t byte);

}  // namespace octavo
