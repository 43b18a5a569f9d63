// Any bytes as a chat template: parsing must end in a template or a typed error, and rendering a
// conversation with tools in a text of UTF-8 or a typed error, the same each time.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/chat_template.h"
#include "core/text/utf8.h"

namespace {

constexpr const char* kVariables = R"({
  "messages": [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "na\u00efve \u65e5\u672c <b> {{ x }}"},
    {"role": "assistant", "content": "<think>a</think>b", "tool_calls": [
      {"id": "abc123def", "function": {"name": "f", "arguments": {"a": [1, 2.5, null, true]}}}]},
    {"role": "tool", "content": {"x": -1}},
    {"role": "user", "content": [{"type": "text", "text": "t"}]}],
  "tools": [{"type": "function", "function": {"name": "f", "description": "d",
    "parameters": {"type": "object", "properties": {"a": {"type": "array"}}}}}],
  "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto variables = nlohmann::ordered_json::parse(kVariables);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto chat_template = octavo::ChatTemplate::FromText(text, {});
  if (!chat_template.ok()) {
    OCTAVO_CHECK(octavo::ReasonOf(chat_template.status()) == octavo::Reason::kUnsupported);
    return 0;
  }
  const octavo::ManualClock clock;
  const auto once = chat_template->RenderVariables(variables, clock);
  if (!once.ok()) {
    OCTAVO_CHECK(octavo::ReasonOf(once.status()) == octavo::Reason::kBadRequest);
    return 0;
  }
  OCTAVO_CHECK(octavo::IsUtf8(*once));
  const auto twice = chat_template->RenderVariables(variables, clock);
  OCTAVO_CHECK(twice.ok() && *twice == *once);
  return 0;
}
