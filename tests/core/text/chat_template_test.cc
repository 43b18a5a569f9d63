#include "core/text/chat_template.h"

#include <time.h>

#include <set>
#include <sstream>

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr const char* kBos = "<|begin_of_text|>";
constexpr const char* kEos = "<|end_of_text|>";
const SpecialTokens kTokens = {{"bos_token", kBos}, {"eos_token", kEos}};

// Goldens keep the order of the keys of JSON, which a template can see.
std::vector<Json> ReadOrderedLines(const std::string& name) {
  std::istringstream lines(ReadGolden(name));
  std::vector<Json> values;
  for (std::string line; std::getline(lines, line);) values.push_back(Json::parse(line));
  EXPECT_FALSE(values.empty()) << name;
  return values;
}

// Whether the rendering is what Jinja said: a text, an error, or the text of raise_exception.
void ExpectLikeJinja(const Json& wanted, const absl::StatusOr<std::string>& got) {
  if (wanted.contains("text")) {
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, wanted["text"].get<std::string>());
    return;
  }
  ASSERT_FALSE(got.ok()) << *got;
  const std::string message(got.status().message());
  if (!wanted.contains("raise")) return;
  EXPECT_EQ(ReasonOf(got.status()), Reason::kBadRequest) << message;
  EXPECT_TRUE(message.ends_with(": " + wanted["raise"].get<std::string>())) << message;
}

class ChatTemplateTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("TZ", "UTC", 1);
    tzset();
  }

  static absl::StatusOr<std::string> RenderText(const std::string& text,
                                                const std::vector<ChatTurn>& turns = {}) {
    auto chat_template = ChatTemplate::FromText(text, kTokens);
    if (!chat_template.ok()) return chat_template.status();
    return chat_template->Render(turns, true);
  }
};

TEST_F(ChatTemplateTest, PromptsAreThoseOfJinja) {
  std::set<std::string> templates;
  for (const auto& c : ReadGoldenLines("chat.jsonl")) {
    const auto text = c["template"].get<std::string>();
    const auto chat_template = ChatTemplate::FromText(text, kTokens);
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    templates.insert(text);
    std::vector<ChatTurn> turns;
    for (const auto& message : c["messages"]) {
      turns.push_back({message["role"].get<std::string>(), message["content"].get<std::string>()});
    }
    const auto prompt = chat_template->Render(turns, c["add_generation_prompt"].get<bool>());
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, c["prompt"].get<std::string>());
  }
  EXPECT_EQ(templates.size(), 16u);
}

TEST_F(ChatTemplateTest, FamiliesWithToolsAndErrorsAreRenderedLikeJinja) {
  const auto families = ReadOrderedLines("chat_families.jsonl");
  EXPECT_GE(families.size(), 20u);
  for (const Json& family : families) {
    SCOPED_TRACE(family["name"].get<std::string>());
    const auto chat_template = ChatTemplate::FromText(family["template"].get<std::string>(), {});
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    ManualClock clock;
    clock.Advance(Clock::Nanos(family["now_ns"].get<int64_t>()));
    for (const Json& c : family["cases"]) {
      SCOPED_TRACE(c["variables"].dump());
      ExpectLikeJinja(c, chat_template->RenderVariables(c["variables"], clock));
    }
  }
}

TEST_F(ChatTemplateTest, TheLanguageIsThatOfJinja) {
  const auto groups = ReadOrderedLines("jinja.jsonl");
  size_t cases = 0;
  for (const Json& group : groups) {
    ManualClock clock;
    clock.Advance(Clock::Nanos(group["now_ns"].get<int64_t>()));
    for (const Json& c : group["cases"]) {
      SCOPED_TRACE(c["template"].get<std::string>());
      const auto chat_template = ChatTemplate::FromText(c["template"].get<std::string>(), {});
      ExpectLikeJinja(c, chat_template.ok()
                             ? chat_template->RenderVariables(group["variables"], clock)
                             : absl::StatusOr<std::string>(chat_template.status()));
      ++cases;
    }
  }
  EXPECT_GE(cases, 500u);
}

TEST_F(ChatTemplateTest, WhatIsNotHandledIsRefusedByNameAndLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n{% include 'x' %}", "line 2: the tag 'include' is not handled"},
      {"{% extends 'x' %}", "the tag 'extends'"},
      {"{% block x %}{% endblock %}", "the tag 'block'"},
      {"\n\n{{ x | urlize }}", "line 3: the filter 'urlize' is not handled"},
      {"{{ x | map('pprint') }}", "the filter 'pprint' is not handled"},
      {"{{ x | selectattr('a', 'filter') }}", "the test 'filter' is not handled"},
      {"{{ x is escapedd }}", "the test 'escapedd'"},
      {"{{ x.encode('a') }}", "the method 'encode' is not handled"},
      {"{{ x.__class__ }}", "the attribute '__class__' is not handled"},
      {"{{ cycler(1, 2) }}", "the global 'cycler' is not handled"},
      {"{{ '\\N{DASH}' }}", "the escape \\N is not handled"},
      {"{{ 9223372036854775808 }}", "an integer beyond 64 bits"},
      {"{{ größe }}", "outside ASCII"},
      {"{% macro f(caller) %}{% endmacro %}", "'caller' as a parameter is not handled"},
      {"\xff", "no UTF-8"},
      {"{% if x %}\n\n", "line 1: a block without 'endif'"},
  };
  for (const auto& [text, message] : cases) {
    const auto chat_template = ChatTemplate::FromText(text, {});
    ASSERT_FALSE(chat_template.ok()) << text;
    EXPECT_EQ(ReasonOf(chat_template.status()), Reason::kUnsupported);
    EXPECT_THAT(std::string(chat_template.status().message()), HasSubstr(message));
    EXPECT_THAT(std::string(chat_template.status().message()), HasSubstr("chat template: line "));
  }
}

TEST_F(ChatTemplateTest, ErrorsOfARequestSayWhereAndWhat) {
  const std::pair<const char*, const char*> cases[] = {
      {"{% for m in messages %}\n{{ raise_exception('no ' ~ m.role) }}{% endfor %}",
       "chat template: line 2: no user"},
      {"\n{{ messages[0].nothing.more }}", "line 2: 'dict object' has no attribute 'nothing'"},
      {"{{ nothing.x }}", "line 1: 'nothing' is undefined"},
      {"{{ messages.append(1) }}", "access to attribute 'append' of 'list' object is unsafe"},
      {"{{ 1 + messages }}", "unsupported operand types for +: 'int' and 'list'"},
      {"{{ messages | map('string') }}", "a value of type 'generator' has no text"},
      {"{{ 4611686018427387904 * 2 }}", "an integer beyond 64 bits"},
      {"{{ messages[0].content | safe | upper }}", "marked safe is not handled"},
  };
  for (const auto& [text, message] : cases) {
    const auto prompt = RenderText(text, {{"user", "hi"}});
    ASSERT_FALSE(prompt.ok()) << text;
    EXPECT_EQ(ReasonOf(prompt.status()), Reason::kBadRequest);
    EXPECT_THAT(std::string(prompt.status().message()), HasSubstr(message));
  }
}

TEST_F(ChatTemplateTest, WorkIsBounded) {
  const std::string loops =
      "{% set r = range(100000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}";
  const std::pair<std::string, const char*> cases[] = {
      {loops, "more than 20000000 steps"},
      {"{{ range(100001) }}", "a range of more than 100000 numbers"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply"},
      {"{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested too deeply"},
      {"{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
       "{% endfor %}",
       "more than 256 MiB of intermediate values"},
      {"{{ 'a' * 1000000000 }}", "more than 256 MiB"},
      {"{{ 'ab' * 9000000000000000000 }}", "more than 20000000 steps"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}",
       "a value nested deeper than 100"},
      {"{% set ns = namespace(x=[1]) %}{% for i in range(999) %}{% set ns.x = ns.x | map('string') "
       "%}"
       "{% endfor %}",
       "a value nested deeper than 100"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}"
       "{% endfor %}{{ ns.x == ns.x }}",
       "more than 20000000 steps"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}"
       "{% endfor %}{{ ns.x }}",
       "more than"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}"
       "{% endfor %}{{ ns.x | tojson }}",
       "more than"},
      {"{% set x = 'a' * 1000000 %}{% for i in range(99) %}{{ x }}{% endfor %}",
       "more than 32 MiB of text"},
      {"{{ 'a' | center(99999999999) }}", "the text becomes too long"},
      {"{{ '%99999999d' % 1 }}", "a width or precision too large"},
      {"{{ ('a' * 5000000).replace('a', 'b' * 5000000) }}", "the text becomes too long"},
      {"{{ (',' * 2000000).split(',') }}", "a split into more than 1000000 parts"},
      {"{{ ('a' * 3000000).rfind('a' * 1500000 ~ 'b') }}", "more than 20000000 steps"},
  };
  for (const auto& [text, message] : cases) {
    const auto prompt = RenderText(text);
    ASSERT_FALSE(prompt.ok()) << text;
    EXPECT_EQ(ReasonOf(prompt.status()), Reason::kBadRequest);
    EXPECT_THAT(std::string(prompt.status().message()), HasSubstr(message)) << text;
  }
}

TEST_F(ChatTemplateTest, NestingOfATemplateIsBounded) {
  auto repeat = [](const std::string& part, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += part;
    return out;
  };
  for (const int depth : {130, 1000, 10000}) {
    const std::string cases[] = {
        "{{ " + repeat("(", depth) + "1" + repeat(")", depth) + " }}",
        "{{ " + repeat("[", depth) + repeat("]", depth) + " }}",
        "{{ " + repeat("not ", depth) + "1 }}",
        "{{ " + repeat("-", depth) + "1 }}",
        "{{ 1" + repeat(" + 1", depth) + " }}",
        "{{ x" + repeat(".x", depth) + " }}",
        "{{ x" + repeat("|trim", depth) + " }}",
        "{{ 1" + repeat(" if 1 else 1", depth) + " }}",
        repeat("{% if 1 %}", depth),
        repeat("{% for i in x %}", depth),
        "{% set " + repeat("(", depth) + "x" + repeat(")", depth) + " = 1 %}",
    };
    for (const std::string& text : cases) {
      const auto chat_template = ChatTemplate::FromText(text, {});
      ASSERT_FALSE(chat_template.ok()) << text.substr(0, 40);
      EXPECT_THAT(std::string(chat_template.status().message()), HasSubstr("too deeply"))
          << text.substr(0, 40);
    }
  }
  EXPECT_FALSE(ChatTemplate::FromText(std::string((1 << 20) + 1, 'a'), {}).ok());
  EXPECT_TRUE(ChatTemplate::FromText(std::string(1 << 20, 'a'), {}).ok());
  std::string names;
  for (int i = 0; i < 501; ++i) names += "{{ n" + std::to_string(i) + " }}";
  EXPECT_THAT(std::string(ChatTemplate::FromText(names, {}).status().message()),
              HasSubstr("more than 500 names"));
  EXPECT_THAT(
      std::string(
          ChatTemplate::FromText(repeat("{% if 1 %}{% endif %}", 5001), {}).status().message()),
      HasSubstr("more than 5000 statements"));
}

TEST_F(ChatTemplateTest, SpecialTokensThatAreMissingAreUndefined) {
  const auto chat_template = ChatTemplate::FromText(
      "{{ bos_token }}|{{ bos_token is defined }}|"
      "{{ tools }}|{{ documents is none }}",
      {});
  EXPECT_EQ(*chat_template->Render({}, true), "|False|None|True");
  const auto with = ChatTemplate::FromText("{{ bos_token }}{{ pad_token }}",
                                           {{"bos_token", "<s>"}, {"pad_token", "<p>"}});
  EXPECT_EQ(*with->Render({}, true), "<s><p>");
}

// A macro, a loop and a generator that outlive what they were made in.
TEST_F(ChatTemplateTest, ValuesMayOutliveTheirCall) {
  EXPECT_EQ(*RenderText("{% set ns = namespace() %}"
                        "{% macro f(a) %}{% for i in [1, 2, a] if i != a %}{% set ns.l = loop %}"
                        "{% break %}{% endfor %}{% endmacro %}"
                        "{{ f(3) }}{{ ns.l.nextitem }}{{ ns.l.last }}{{ ns.l.length }}"),
            "2False2");
  EXPECT_EQ(
      *RenderText("{% set ns = namespace() %}"
                  "{% macro f(a) %}{% for i in [1] recursive %}{% set ns.l = loop %}{{ i }}{{ a }}"
                  "{% endfor %}{% endmacro %}{{ f(3) }}/{{ ns.l([7, 8]) }}"),
      "13/7383");
}

}  // namespace
}  // namespace octavo
