#pragma once

// Conversations to prompts. A checkpoint's chat template is a Jinja program; Octavo knows a number
// of them by the XXH3-128 digest of their text and renders them with code of its own, byte for byte
// as `transformers` (apply_chat_template, tokenize=False) does. Any other template is refused, with
// its digest, rather than approximated.
//
// Known: ChatML in several spellings (plain, SmolLM2, Qwen2, Qwen1.5: they differ in the default
// system prompt and at the end) and Llama 3 in its three revisions. See chat_template.cc.

#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace octavo {

struct ChatTurn {
  std::string role;  // "system", "user", "assistant", or whatever the template passes through
  std::string content;
};

struct ChatForm;

class ChatTemplate {
 public:
  // Errors: kUnsupported when the text is not one of the known templates.
  static absl::StatusOr<ChatTemplate> FromText(std::string_view template_text,
                                               std::string_view bos_text,
                                               std::string_view eos_text);

  // `add_generation_prompt`: end with the header of the assistant's next turn. Errors: kBadRequest
  // where the template itself would raise an error.
  absl::StatusOr<std::string> Render(std::span<const ChatTurn> turns,
                                     bool add_generation_prompt) const;

  // "chatml", "smollm2", "qwen2", "llama3", ...
  std::string_view name() const;

 private:
  ChatTemplate(const ChatForm* form, std::string_view bos_text, std::string_view eos_text)
      : form_(form), bos_text_(bos_text), eos_text_(eos_text) {}

  const ChatForm* form_;
  std::string bos_text_;
  std::string eos_text_;
};

}  // namespace octavo
