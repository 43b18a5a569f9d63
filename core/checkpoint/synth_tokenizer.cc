#include "core/checkpoint/synth_tokenizer.h"

#include "core/checkpoint/config_json.h"
#include "core/checkpoint/gguf_tokenizer.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr const char* kSpecials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
constexpr int64_t kLeastVocab = 256 + 3;

constexpr const char* kChatMl =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\\n' }}{% endif %}";

}  // namespace

std::optional<SynthTokenizer> MakeSynthTokenizer(int64_t vocab_size) {
  if (vocab_size < kLeastVocab) return std::nullopt;
  BpeParts parts;
  for (int byte = 0; byte < 256; ++byte) {
    parts.tokens.push_back(ByteCharacter(static_cast<uint8_t>(byte)));
  }
  for (const char* text : kSpecials) {
    parts.added.push_back({static_cast<int32_t>(parts.tokens.size()), text, true});
    parts.tokens.emplace_back(text);
  }
  while (static_cast<int64_t>(parts.tokens.size()) < vocab_size) {
    parts.tokens.push_back(fmt::format("<|unused_{}|>", parts.tokens.size()));
  }
  parts.pre_tokenizer_json =
      R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
  nlohmann::ordered_json config;
  config["add_bos_token"] = false;
  config["bos_token"] = kSpecials[0];
  config["eos_token"] = kSpecials[2];
  config["pad_token"] = kSpecials[0];
  config["chat_template"] = kChatMl;
  config["clean_up_tokenization_spaces"] = false;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  SynthTokenizer out;
  out.tokenizer_json = TokenizerJson(parts);
  out.tokenizer_config_json = JsonText(config);
  return out;
}

}  // namespace octavo
