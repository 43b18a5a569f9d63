// Filters on text, and those that make text of any value.

#include <algorithm>
#include <array>

#include "core/base/status.h"
#include "core/text/jinja/format.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/native.h"
#include "core/text/jinja/strings.h"
#include "core/text/jinja/unicode.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

using Result = absl::StatusOr<Value>;

template <Case to>
Result CaseFilter(const Value& self, const BoundArguments&, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(self, context.budget));
  return MakeText(WithCase(text, to), context.budget);
}

Result Capitalize(const Value& self, const BoundArguments&, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(self, context.budget));
  return MakeText(Capitalized(text), context.budget);
}

// Words begin after white space and after - ( { [ <; each is capitalized.
Result Title(const Value& self, const BoundArguments&, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(self, context.budget));
  OCTAVO_RETURN_IF_ERROR(context.budget.Make(text.size() * sizeof(std::string_view)));
  std::string out;
  std::string word;
  auto flush = [&] {
    if (word.empty()) return;
    const size_t first = DecodeUtf8(word).size;
    out += WithCase(word.substr(0, first), Case::kUpper);
    out += WithCase(word.substr(first), Case::kLower);
    word.clear();
  };
  for (const std::string_view character : Characters(text)) {
    const bool space = Strip(character).empty();
    if (space || std::string_view("-({[<").find(character) != std::string_view::npos) {
      flush();
      out += character;
    } else {
      word += character;
    }
  }
  flush();
  return MakeText(std::move(out), context.budget);
}

Result Trim(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(self, context.budget));
  std::optional<std::string_view> set;
  if (arguments.Given(0) != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(set, arguments.Text(0, ""));
    OCTAVO_RETURN_IF_ERROR(context.budget.SpendBytes(text.size() * set->size()));
    OCTAVO_RETURN_IF_ERROR(context.budget.Make(set->size() * sizeof(std::string_view)));
  }
  return MakeText(std::string(Strip(text, set)), context.budget);
}

Result ReplaceFilter(const Value& self, const BoundArguments& arguments,
                     const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(self, context.budget));
  OCTAVO_ASSIGN_OR_RETURN(const std::string old, ToText(arguments[0], context.budget));
  OCTAVO_ASSIGN_OR_RETURN(const std::string with, ToText(arguments[1], context.budget));
  int64_t count = -1;
  if (arguments.Given(2) != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(count, arguments.Int(2, -1));
  }
  auto replaced = Replace(text, old, with, count, kBytesMadeMax / 4);
  if (!replaced) return RenderError("replace: the text becomes too long");
  return MakeText(*std::move(replaced), context.budget);
}

// The indentation of one level, from a number of spaces or a text.
absl::StatusOr<std::string> Indentation(const Value& width, int64_t width_max) {
  if (width.IsString()) return width.text();
  const auto spaces = AsInt(width);
  if (!spaces) return TypeError("an indentation is a number or a string", width);
  if (*spaces > width_max) return RenderError("an indentation too wide");
  return std::string(static_cast<size_t>(std::max<int64_t>(*spaces, 0)), ' ');
}

Result Indent(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  if (!self.IsString()) return TypeError("indent: a string is needed", self);
  OCTAVO_ASSIGN_OR_RETURN(const std::string indent,
                          Indentation(arguments.Has(0) ? arguments[0] : Value::Int(4), 10'000));
  const std::string text = self.text() + "\n";
  OCTAVO_RETURN_IF_ERROR(context.budget.Make(LinesMax(text) * (indent.size() + 16)));
  const auto lines = SplitLines(text, false);
  std::string out = arguments.Flag(1) ? indent : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (arguments.Flag(2) || !lines[i].empty())) out += indent;
    out += lines[i];
  }
  return MakeText(std::move(out), context.budget);
}

Result Center(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(std::string text, ToText(self, context.budget));
  const Value subject = Value::Text(std::move(text));
  const Value width = arguments.Has(0) ? arguments[0] : Value::Int(80);
  return CallNative(*FindMethod(subject, "center"), subject, {.positional = {width}, .named = {}},
                    context);
}

Result Truncate(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const int64_t length, arguments.Int(0, 255));
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view end, arguments.Text(2, "..."));
  int64_t leeway = 5;
  if (arguments.Given(3) != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(leeway, arguments.Int(3, 5));
  }
  const int64_t kept = length - CountCharacters(end);
  if (kept < 0 || leeway < 0) return RenderError("truncate: the length or leeway is too small");
  const auto size = Length(self);
  if (size && *size - leeway <= length) return self;  // a short list, too
  if (!self.IsString()) return TypeError("truncate: a string is needed", self);
  const std::string_view text = self.text();
  std::string_view head = text.substr(0, ByteOf(text, kept));
  if (!arguments.Flag(1)) head = SplitFromRight(head, " ", 1).front();
  return MakeText(std::string(head) + std::string(end), context.budget);
}

Result ToString(const Value& self, const BoundArguments&, const NativeContext& context) {
  if (self.IsString()) return self;
  OCTAVO_ASSIGN_OR_RETURN(std::string text, ToText(self, context.budget));
  return Value::Text(std::move(text));
}

Result Safe(const Value& self, const BoundArguments&, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(std::string text, ToText(self, context.budget));
  return Value::Of(String{std::make_shared<const std::string>(std::move(text)), true});
}

Result Escape(const Value& self, const BoundArguments&, const NativeContext& context) {
  if (self.IsString() && self.As<String>()->safe) return self;
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(self, context.budget));
  std::string escaped = EscapeHtml(text);
  OCTAVO_RETURN_IF_ERROR(context.budget.Make(escaped.size()));
  return Value::Of(String{std::make_shared<const std::string>(std::move(escaped)), true});
}

Result Format(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(self, context.budget));
  const Arguments& values = arguments.rest();
  if (!values.positional.empty() && !values.named.empty()) {
    return RenderError("format takes arguments by position or by name, not both");
  }
  Value given;
  if (values.named.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(given, MakeTuple(values.positional, context.budget));
  } else {
    Entries entries;
    for (const auto& [name, value] : values.named) entries.emplace_back(Value::Text(name), value);
    OCTAVO_ASSIGN_OR_RETURN(given, MakeDict(std::move(entries), context.budget));
  }
  OCTAVO_ASSIGN_OR_RETURN(std::string out, FormatPercent(text, given, context.budget));
  return Value::Text(std::move(out));
}

Result ToJsonFilter(const Value& self, const BoundArguments& arguments,
                    const NativeContext& context) {
  JsonOptions options{.ascii_only = arguments.Flag(0), .indent = {}};
  if (const Value* indent = arguments.Given(1)) {
    OCTAVO_ASSIGN_OR_RETURN(options.indent, Indentation(*indent, 1000));
    options.item_separator = ",";
  }
  if (const Value* separators = arguments.Given(2)) {
    OCTAVO_ASSIGN_OR_RETURN(const Items both, ToItems(*separators, context.budget));
    if (both.size() != 2 || !both[0].IsString() || !both[1].IsString()) {
      return RenderError("tojson: separators are two strings");
    }
    options.item_separator = both[0].text();
    options.key_separator = both[1].text();
  }
  options.sort_keys = arguments.Flag(3);
  OCTAVO_ASSIGN_OR_RETURN(std::string json, ToJson(self, options, context.budget));
  return Value::Text(std::move(json));
}

constexpr auto kTextFilters = std::to_array<FunctionEntry>({
    {"lower", "", 0, CaseFilter<Case::kLower>},
    {"upper", "", 0, CaseFilter<Case::kUpper>},
    {"capitalize", "", 0, Capitalize},
    {"title", "", 0, Title},
    {"trim", "chars", 0, Trim},
    {"replace", "old new count", 2, ReplaceFilter},
    {"indent", "width first blank", 0, Indent},
    {"center", "width", 0, Center},
    {"truncate", "length killwords end leeway", 0, Truncate},
    {"string", "", 0, ToString},
    {"safe", "", 0, Safe},
    {"escape", "", 0, Escape},
    {"e", "", 0, Escape},
    {"format", "", 0, Format, true},
    {"tojson", "ensure_ascii indent separators sort_keys", 0, ToJsonFilter},
});

}  // namespace

std::span<const FunctionEntry> TextFilters() { return kTextFilters; }

}  // namespace octavo::jinja
