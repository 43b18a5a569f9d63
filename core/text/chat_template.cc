#include "core/text/chat_template.h"

#include <array>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo {
namespace {

enum class Family { kChatMl, kLlama3 };

// What follows the last turn, where the forms differ.
enum class Ending {
  kPromptOnRequest,  // the assistant's header when add_generation_prompt
  kPromptAlways,     // the header, whatever was asked for
  kPromptOrEos,      // the header when asked for, else the end-of-text token
  kOpenLastTurn,     // without a prompt the last turn stays open; no header after an assistant
};

// Python's str.isspace, which str.strip and so Jinja's trim go by.
bool IsPythonSpace(char32_t code) { return IsWhiteSpace(code) || (code >= 0x1c && code <= 0x1f); }

std::string_view Trim(std::string_view text) {
  size_t begin = 0;
  size_t end = 0;  // of the last character that stays
  bool seen = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = DecodeUtf8(text.substr(at));
    const bool space = next.state == Utf8State::kValid && IsPythonSpace(next.code);
    if (!space && !seen) begin = at;
    seen = seen || !space;
    at += next.size;
    if (!space) end = at;
  }
  return seen ? text.substr(begin, end - begin) : std::string_view();
}

}  // namespace

// A known template: what its text hashes to, and what it does.
struct ChatForm {
  std::string_view digest;  // XXH3-128 of the template's text
  std::string_view name;
  Family family;
  Ending ending;
  std::string_view default_system = {};  // a system turn put first when the first turn is none
};

namespace {

constexpr std::string_view kSmolLm2System =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
constexpr std::string_view kQwen2System = "You are a helpful assistant.";
constexpr std::string_view kQwen15System = "You are a helpful assistant";

// Each text comes in two spellings: with line feeds inside its string literals, as files have them
// after JSON is decoded, and with the two characters \n there. tests/oracle/check_chat_template.py
// builds the texts and compares with Jinja.
constexpr auto kForms = std::to_array<ChatForm>({
    {"f0a6a8278439fdb056191e205a440263", "chatml", Family::kChatMl, Ending::kPromptOnRequest},
    {"577a7fce73f72e1ee2be9fd6966bb5eb", "chatml", Family::kChatMl, Ending::kPromptOnRequest},
    {"a344e8c84fb0282dda206a9e46a4ac01", "chatml", Family::kChatMl, Ending::kPromptOnRequest},
    {"7a128e0473e4be90846f9032c2079ea2", "chatml", Family::kChatMl, Ending::kPromptOnRequest},
    {"98f63cc3d421d28f99ab995e9629dacd", "smollm2", Family::kChatMl, Ending::kPromptOnRequest,
     kSmolLm2System},
    {"f0323af61a5d6e2383059ddcb62b07a0", "smollm2", Family::kChatMl, Ending::kPromptOnRequest,
     kSmolLm2System},
    {"e580c2da83415028d5d943bd0bd9082f", "qwen2", Family::kChatMl, Ending::kPromptOnRequest,
     kQwen2System},
    {"7c4c17cbc95b1d56c79034a9d5f0ae58", "qwen2", Family::kChatMl, Ending::kPromptOnRequest,
     kQwen2System},
    {"e172667461b75b81f40d3b263dcc40bf", "qwen1.5", Family::kChatMl, Ending::kOpenLastTurn,
     kQwen15System},
    {"d732d1295c6364cbf525ce544f7d7831", "qwen1.5", Family::kChatMl, Ending::kOpenLastTurn,
     kQwen15System},
    {"09facc0e4aa943189799ad6e2dea0594", "llama3", Family::kLlama3, Ending::kPromptOnRequest},
    {"11cc8d79e9815d5c866fc8fa50da12fe", "llama3", Family::kLlama3, Ending::kPromptOnRequest},
    {"8f20b9eda669ce10b97891b7adc1beb8", "llama3", Family::kLlama3, Ending::kPromptAlways},
    {"0debe51b618cd79280e4830e93c6d9f7", "llama3", Family::kLlama3, Ending::kPromptAlways},
    {"6b338ff87f3c576633b4d0d68cf699fb", "llama3", Family::kLlama3, Ending::kPromptOrEos},
    {"c215a05d0b606032b658079a801db33d", "llama3", Family::kLlama3, Ending::kPromptOrEos},
});

// <|im_start|>role, line feed, content, <|im_end|>, line feed.
std::string RenderChatMl(const ChatForm& form, std::span<const ChatTurn> turns, bool prompt) {
  std::string out;
  auto add = [&](std::string_view role, std::string_view content, bool closed) {
    out += fmt::format("<|im_start|>{}\n{}{}", role, content, closed ? "<|im_end|>\n" : "");
  };
  const bool no_system = !turns.empty() && turns[0].role != "system";
  if (no_system && !form.default_system.empty()) add("system", form.default_system, true);
  const bool may_stay_open = form.ending == Ending::kOpenLastTurn;
  for (size_t i = 0; i < turns.size(); ++i) {
    const bool last = i + 1 == turns.size();
    add(turns[i].role, turns[i].content, !(may_stay_open && last && !prompt));
  }
  const bool header = prompt && !(may_stay_open && turns.back().role == "assistant");
  if (header) out += "<|im_start|>assistant\n";
  return out;
}

std::string RenderLlama3(const ChatForm& form, std::span<const ChatTurn> turns, bool prompt,
                         std::string_view bos, std::string_view eos) {
  std::string out;
  if (!turns.empty()) out += bos;
  for (const ChatTurn& turn : turns) {
    out += fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>", turn.role,
                       Trim(turn.content));
  }
  if (prompt || form.ending == Ending::kPromptAlways) {
    out += "<|start_header_id|>assistant<|end_header_id|>\n\n";
  } else if (form.ending == Ending::kPromptOrEos) {
    out += eos;
  }
  return out;
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::FromText(std::string_view template_text,
                                                    std::string_view bos_text,
                                                    std::string_view eos_text) {
  const std::string digest = DigestOf(template_text).Hex();
  for (const ChatForm& form : kForms) {
    if (form.digest == digest) return ChatTemplate(&form, bos_text, eos_text);
  }
  return MakeError(
      Reason::kUnsupported,
      fmt::format("the chat template with digest {} ({} bytes) is not one that Octavo knows",
                  digest, template_text.size()),
      {}, "Send the prompt as text or token ids, rendered by your own program");
}

absl::StatusOr<std::string> ChatTemplate::Render(std::span<const ChatTurn> turns,
                                                 bool add_generation_prompt) const {
  if (form_->family == Family::kLlama3) {
    return RenderLlama3(*form_, turns, add_generation_prompt, bos_text_, eos_text_);
  }
  if (form_->ending == Ending::kOpenLastTurn && turns.empty() && add_generation_prompt) {
    return MakeError(Reason::kBadRequest, "this chat template needs at least one message");
  }
  return RenderChatMl(*form_, turns, add_generation_prompt);
}

std::string_view ChatTemplate::name() const { return form_->name; }

}  // namespace octavo
