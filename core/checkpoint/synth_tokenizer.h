#pragma once

// A byte-level tokenizer for synthetic models: every byte is a token, plus <|endoftext|> 256,
// <|im_start|> 257 and
// <|im_end|> 258, then unused tokens up to the vocabulary's size; ChatML template.

#include <cstdint>
#include <optional>
#include <string>

namespace octavo {

struct SynthTokenizer {
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  int32_t bos_id = 256;
  int32_t eos_id = 258;
};

// Nothing when the vocabulary has no room for it (below 259).
std::optional<SynthTokenizer> MakeSynthTokenizer(int64_t vocab_size);

}  // namespace octavo
