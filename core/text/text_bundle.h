#pragma once

// Everything about text that a checkpoint folder holds, from the bytes of its files. (This room
// reads no files: the gateway gets them by digest from a worker.)

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/text/chat_template.h"
#include "core/text/tokenizer.h"

namespace octavo {

// The contents of the files named so; empty where a file is missing. Only one of the first two is
// required, tokenizer.json wins.
struct TextFiles {
  std::string_view tokenizer_json = {};
  std::string_view tokenizer_model = {};
  std::string_view tokenizer_config_json = {};
  std::string_view chat_template_jinja = {};
  std::string_view generation_config_json = {};
  std::string_view config_json = {};
};

struct TextBundle {
  std::unique_ptr<Tokenizer> tokenizer;

  // From chat_template.jinja, else from tokenizer_config.json (a string, or the entry "default" of
  // a list). Without one, `chat_template_error` says why.
  std::optional<ChatTemplate> chat_template;
  absl::Status chat_template_error;

  std::string bos_text;  // empty if there is none
  std::string eos_text;
  std::optional<int32_t> bos_id;
  // Ids that end a generation, ascending: those of generation_config.json, else of config.json,
  // else the eos token of tokenizer_config.json.
  std::vector<int32_t> eos_ids;
};

// Errors: those of LoadTokenizer or LoadSentencePieceTokenizer; kBadCheckpoint naming the file for
// one that is malformed. A chat template that is missing or not handled is no error here.
absl::StatusOr<TextBundle> LoadTextBundle(const TextFiles& files);

}  // namespace octavo
