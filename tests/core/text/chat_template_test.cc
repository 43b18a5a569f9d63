#include "core/text/chat_template.h"

#include <set>

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

constexpr const char* kBos = "<|begin_of_text|>";
constexpr const char* kEos = "<|end_of_text|>";

TEST(ChatTemplateTest, PromptsAreThoseOfJinja) {
  std::set<std::string> names;
  std::set<std::string> templates;
  for (const auto& c : ReadGoldenLines("chat.jsonl")) {
    const auto text = c["template"].get<std::string>();
    const auto chat_template = ChatTemplate::FromText(text, kBos, kEos);
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    EXPECT_EQ(chat_template->name(), c["name"].get<std::string>());
    names.insert(c["name"].get<std::string>());
    templates.insert(text);
    std::vector<ChatTurn> turns;
    for (const auto& message : c["messages"]) {
      turns.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
    }
    const auto prompt = chat_template->Render(turns, c["add_generation_prompt"].get<bool>());
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, c["prompt"].get<std::string>());
  }
  EXPECT_EQ(names, (std::set<std::string>{"chatml", "smollm2", "qwen2", "qwen1.5", "llama3"}));
  EXPECT_EQ(templates.size(), 16u);
}

TEST(ChatTemplateTest, AnyOtherTemplateIsRefusedWithItsDigest) {
  const auto known = ReadGoldenLines("chat.jsonl")[0]["template"].get<std::string>();
  for (const std::string& text : {known + " ", std::string(), std::string("{{ messages }}")}) {
    const auto chat_template = ChatTemplate::FromText(text, kBos, kEos);
    ASSERT_FALSE(chat_template.ok());
    EXPECT_EQ(ReasonOf(chat_template.status()), Reason::kUnsupported);
  }
  const auto empty = ChatTemplate::FromText("", kBos, kEos);
  EXPECT_THAT(std::string(empty.status().message()),
              HasSubstr("99aa06d3014798d86001c324468d497f (0 bytes)"));
}

TEST(ChatTemplateTest, WhereTheTemplateWouldRaiseRenderDoesToo) {
  for (const auto& c : ReadGoldenLines("chat.jsonl")) {
    if (c["name"] != "qwen1.5") continue;
    const auto chat_template = ChatTemplate::FromText(c["template"].get<std::string>(), "", "");
    const auto prompt = chat_template->Render({}, true);
    ASSERT_FALSE(prompt.ok());
    EXPECT_EQ(ReasonOf(prompt.status()), Reason::kBadRequest);
    EXPECT_EQ(*chat_template->Render({}, false), "");
  }
}

}  // namespace
}  // namespace octavo
