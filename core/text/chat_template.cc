#include "core/text/chat_template.h"

#include "core/base/error.h"
#include "core/base/status.h"

namespace octavo {
namespace {

using OrderedJson = nlohmann::ordered_json;
constexpr std::string_view kContext = "chat template";

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::FromText(std::string_view template_text,
                                                    SpecialTokens tokens) {
  auto program = jinja::Template::Parse(template_text);
  if (!program.ok()) return WithContext(program.status(), kContext);
  return ChatTemplate(*std::move(program), std::move(tokens));
}

absl::StatusOr<std::string> ChatTemplate::Render(std::span<const ChatTurn> turns,
                                                 bool add_generation_prompt) const {
  OrderedJson messages = OrderedJson::array();
  for (const ChatTurn& turn : turns) {
    messages.push_back({{"role", turn.role}, {"content", turn.content}});
  }
  return RenderVariables(
      {{"messages", std::move(messages)}, {"add_generation_prompt", add_generation_prompt}});
}

absl::StatusOr<std::string> ChatTemplate::RenderVariables(OrderedJson variables,
                                                          const Clock& clock) const {
  for (const char* name : {"tools", "documents"}) {
    if (!variables.contains(name)) variables[name] = nullptr;
  }
  for (const auto& [name, text] : tokens_) {
    if (!variables.contains(name)) variables[name] = text;
  }
  auto prompt = program_.Render(variables, clock.WallNow().count());
  if (!prompt.ok()) return WithContext(prompt.status(), kContext);
  return prompt;
}

}  // namespace octavo
