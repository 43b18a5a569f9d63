// Methods of text that make new text.

#include <algorithm>
#include <array>

#include "core/base/status.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/native.h"
#include "core/text/jinja/strings.h"
#include "core/text/jinja/unicode.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

using Result = absl::StatusOr<Value>;
using Views = std::vector<std::string_view>;

constexpr int64_t kPartsMax = 1'000'000;

template <bool left, bool right>
Result StripMethod(const Value& self, const BoundArguments& arguments,
                   const NativeContext& context) {
  std::optional<std::string_view> set;
  if (arguments.Given(0) != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(set, arguments.Text(0, ""));
    OCTAVO_RETURN_IF_ERROR(context.budget.SpendBytes(self.text().size() * set->size()));
    OCTAVO_RETURN_IF_ERROR(context.budget.Make(set->size() * sizeof(std::string_view)));
  }
  const std::string_view stripped = Strip(self.text(), set, {.left = left, .right = right});
  if (stripped.size() == self.text().size()) return self;
  return MakeText(std::string(stripped), context.budget);
}

template <Case to>
Result CaseMethod(const Value& self, const BoundArguments&, const NativeContext& context) {
  return MakeText(WithCase(self.text(), to), context.budget);
}

Result CapitalizeMethod(const Value& self, const BoundArguments&, const NativeContext& context) {
  return MakeText(Capitalized(self.text()), context.budget);
}

template <absl::StatusOr<std::string> (*change)(std::string_view)>
Result ChangeMethod(const Value& self, const BoundArguments&, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(std::string text, change(self.text()));
  return MakeText(std::move(text), context.budget);
}

Result TextList(const Views& parts, const NativeContext& context) {
  Items items;
  for (const std::string_view part : parts) {
    OCTAVO_ASSIGN_OR_RETURN(Value item, MakeText(std::string(part), context.budget));
    items.push_back(std::move(item));
  }
  return MakeList(std::move(items), context.budget);
}

template <Views (*split)(std::string_view, std::optional<std::string_view>, int64_t)>
Result SplitMethod(const Value& self, const BoundArguments& arguments,
                   const NativeContext& context) {
  std::optional<std::string_view> separator;
  if (arguments.Given(0) != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(separator, arguments.Text(0, ""));
    if (separator->empty()) return RenderError("empty separator");
  }
  OCTAVO_ASSIGN_OR_RETURN(const int64_t wanted_max, arguments.Int(1, -1));
  OCTAVO_RETURN_IF_ERROR(context.budget.SpendBytes(self.text().size()));
  const bool bounded = wanted_max >= 0 && wanted_max < kPartsMax;
  const Views parts = split(self.text(), separator, bounded ? wanted_max : kPartsMax);
  if (parts.size() > static_cast<size_t>(kPartsMax)) {
    return RenderError(fmt::format("a split into more than {} parts", kPartsMax));
  }
  return TextList(parts, context);
}

Result SplitLinesMethod(const Value& self, const BoundArguments& arguments,
                        const NativeContext& context) {
  OCTAVO_RETURN_IF_ERROR(context.budget.Make(LinesMax(self.text()) * sizeof(std::string_view)));
  return TextList(SplitLines(self.text(), arguments.Flag(0)), context);
}

template <bool from_right>
Result PartitionMethod(const Value& self, const BoundArguments& arguments,
                       const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view separator, arguments.Text(0, ""));
  if (separator.empty()) return RenderError("empty separator");
  const std::string& text = self.text();
  const Views parts = from_right ? SplitFromRight(text, separator, 1) : Split(text, separator, 1);
  const Views whole = from_right ? Views{"", "", text} : Views{text, "", ""};
  Items items;
  for (const std::string_view part :
       parts.size() == 2 ? Views{parts[0], separator, parts[1]} : whole) {
    OCTAVO_ASSIGN_OR_RETURN(Value item, MakeText(std::string(part), context.budget));
    items.push_back(std::move(item));
  }
  return MakeTuple(std::move(items), context.budget);
}

Result Join(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const Items items, ToItems(arguments[0], context.budget));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].IsString()) return TypeError("join: a string is needed", items[i]);
    const size_t grown = items[i].text().size() + self.text().size();
    OCTAVO_RETURN_IF_ERROR(context.budget.Make(grown));
    if (i > 0) out += self.text();
    out += items[i].text();
  }
  return Value::Text(std::move(out));
}

Result ReplaceMethod(const Value& self, const BoundArguments& arguments,
                     const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view old, arguments.Text(0, ""));
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view with, arguments.Text(1, ""));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t count, arguments.Int(2, -1));
  auto text = Replace(self.text(), old, with, count, kBytesMadeMax / 4);
  if (!text) return RenderError("replace: the text becomes too long");
  return MakeText(*std::move(text), context.budget);
}

template <bool prefix>
Result RemoveMethod(const Value& self, const BoundArguments& arguments,
                    const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view part, arguments.Text(0, ""));
  std::string_view text = self.text();
  if (part.empty() || !(prefix ? text.starts_with(part) : text.ends_with(part))) return self;
  prefix ? text.remove_prefix(part.size()) : text.remove_suffix(part.size());
  return MakeText(std::string(text), context.budget);
}

enum class Side { kLeft, kRight, kBoth };

// The text within `width` characters; `side` is where the filling goes.
template <Side side>
Result JustifyMethod(const Value& self, const BoundArguments& arguments,
                     const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const int64_t width, arguments.Int(0, 0));
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view fill, arguments.Text(1, " "));
  if (CountCharacters(fill) != 1) return RenderError("the filling must be one character");
  const int64_t missing = width - CountCharacters(self.text());
  if (missing <= 0) return self;
  if (missing > kBytesMadeMax / 4) return RenderError("the text becomes too long");
  OCTAVO_RETURN_IF_ERROR(context.budget.Make(static_cast<size_t>(missing) * fill.size()));
  int64_t left = side == Side::kLeft ? missing : 0;
  if (side == Side::kBoth) left = missing / 2 + (missing & width & 1);  // as CPython rounds
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (int64_t i = left; i < missing; ++i) out += fill;
  return MakeText(std::move(out), context.budget);
}

Result ZeroFill(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const int64_t width, arguments.Int(0, 0));
  const std::string& text = self.text();
  const int64_t missing = width - CountCharacters(text);
  if (missing <= 0) return self;
  if (missing > kBytesMadeMax / 4) return RenderError("the text becomes too long");
  const size_t sign = !text.empty() && (text[0] == '+' || text[0] == '-') ? 1 : 0;
  return MakeText(
      text.substr(0, sign) + std::string(static_cast<size_t>(missing), '0') + text.substr(sign),
      context.budget);
}

constexpr auto kTextMethods = std::to_array<FunctionEntry>({
    {"strip", "chars", 0, StripMethod<true, true>},
    {"lstrip", "chars", 0, StripMethod<true, false>},
    {"rstrip", "chars", 0, StripMethod<false, true>},
    {"lower", "", 0, CaseMethod<Case::kLower>},
    {"upper", "", 0, CaseMethod<Case::kUpper>},
    {"capitalize", "", 0, CapitalizeMethod},
    {"swapcase", "", 0, ChangeMethod<SwappedCase>},
    {"title", "", 0, ChangeMethod<Titled>},
    {"split", "sep maxsplit", 0, SplitMethod<Split>},
    {"rsplit", "sep maxsplit", 0, SplitMethod<SplitFromRight>},
    {"splitlines", "keepends", 0, SplitLinesMethod},
    {"partition", "sep", 1, PartitionMethod<false>},
    {"rpartition", "sep", 1, PartitionMethod<true>},
    {"join", "iterable", 1, Join},
    {"replace", "old new count", 2, ReplaceMethod},
    {"removeprefix", "prefix", 1, RemoveMethod<true>},
    {"removesuffix", "suffix", 1, RemoveMethod<false>},
    {"ljust", "width fillchar", 1, JustifyMethod<Side::kRight>},
    {"rjust", "width fillchar", 1, JustifyMethod<Side::kLeft>},
    {"center", "width fillchar", 1, JustifyMethod<Side::kBoth>},
    {"zfill", "width", 1, ZeroFill},
});

}  // namespace

std::span<const FunctionEntry> TextMethods() { return kTextMethods; }

}  // namespace octavo::jinja
