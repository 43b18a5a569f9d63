#pragma once

// Conversations to prompts. A checkpoint's chat template is a Jinja program; it is parsed once and
// run for every request, byte for byte as `transformers` (apply_chat_template, tokenize=False)
// does. A template that uses what Octavo's interpreter lacks (core/text/jinja/template.h) is
// refused when it is loaded, by the name of the construct and its line, rather than approximated.

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/base/clock.h"
#include "core/text/jinja/template.h"
#include "nlohmann/json.hpp"

namespace octavo {

struct ChatTurn {
  std::string role;  // "system", "user", "assistant", or whatever the template passes through
  std::string content;
};

// "bos_token", "eos_token", "pad_token", ... to their text. A token that is not here is undefined
// in the template.
using SpecialTokens = std::map<std::string, std::string>;

class ChatTemplate {
 public:
  // Errors: kUnsupported, with the line.
  static absl::StatusOr<ChatTemplate> FromText(std::string_view template_text,
                                               SpecialTokens tokens);

  // `add_generation_prompt`: end with the header of the assistant's next turn. There are no tools
  // and no documents. Errors: kBadRequest, with the line, where the template raises an error
  // (with its text), where it fails, and beyond the limits of a rendering.
  absl::StatusOr<std::string> Render(std::span<const ChatTurn> turns,
                                     bool add_generation_prompt) const;

  // The same with any variables: "messages" and "add_generation_prompt", "tools", "documents" and
  // whatever else the template asks for. `clock`: what strftime_now shows.
  absl::StatusOr<std::string> RenderVariables(nlohmann::ordered_json variables,
                                              const Clock& clock = Clock::System()) const;

 private:
  ChatTemplate(jinja::Template program, SpecialTokens tokens)
      : program_(std::move(program)), tokens_(std::move(tokens)) {}

  jinja::Template program_;
  SpecialTokens tokens_;
};

}  // namespace octavo
