// Methods of text that look for something in it.

#include <algorithm>
#include <array>

#include "core/base/status.h"
#include "core/text/jinja/native.h"
#include "core/text/jinja/strings.h"
#include "core/text/jinja/unicode.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// text[start:stop] in bytes; nothing if start is behind the end.
struct Window {
  size_t begin = 0;
  size_t end = 0;
  bool exists = true;
};

absl::StatusOr<Window> WindowOf(std::string_view text, const BoundArguments& arguments) {
  Window window{.begin = 0, .end = text.size()};
  if (arguments.Given(1) == nullptr && arguments.Given(2) == nullptr) return window;
  const int64_t size = CountCharacters(text);
  int64_t start = 0;
  int64_t stop = size;
  if (arguments.Given(1) != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(start, arguments.Int(1, 0));
  }
  if (arguments.Given(2) != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(stop, arguments.Int(2, 0));
  }
  if (start < 0) start = start < -size ? 0 : start + size;
  if (stop < 0) stop = stop < -size ? 0 : stop + size;
  stop = std::min(stop, size);
  if (start > stop) return Window{.exists = false};
  window.begin = ByteOf(text, start);
  window.end = ByteOf(text, stop);
  return window;
}

// The index in characters; -1 if there is none.
template <bool last>
absl::StatusOr<int64_t> IndexOf(const Value& self, const BoundArguments& arguments,
                                const NativeContext& context) {
  const std::string_view text = self.text();
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view part, arguments.Text(0, ""));
  OCTAVO_ASSIGN_OR_RETURN(const Window window, WindowOf(text, arguments));
  if (!window.exists) return -1;
  // Backwards it may compare the whole part at every place.
  const size_t work = last ? text.size() * part.size() : text.size();
  OCTAVO_RETURN_IF_ERROR(context.budget.SpendBytes(work));
  const std::string_view within = text.substr(window.begin, window.end - window.begin);
  const size_t found = last ? within.rfind(part) : Find(within, part, 0);
  if (found == std::string::npos) return -1;
  return CountCharacters(text.substr(0, window.begin + found));
}

template <bool last, bool must>
Result FindMethodOf(const Value& self, const BoundArguments& arguments,
                    const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const int64_t index, IndexOf<last>(self, arguments, context));
  if (must && index < 0) return RenderError("substring not found");
  return Value::Int(index);
}

Result Count(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view part, arguments.Text(0, ""));
  OCTAVO_ASSIGN_OR_RETURN(const Window window, WindowOf(self.text(), arguments));
  if (!window.exists) return Value::Int(0);
  OCTAVO_RETURN_IF_ERROR(context.budget.SpendBytes(self.text().size()));
  const std::string_view within =
      std::string_view(self.text()).substr(window.begin, window.end - window.begin);
  if (part.empty()) return Value::Int(CountCharacters(within) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = Find(within, part, at)) != std::string::npos; at += part.size()) {
    ++count;
  }
  return Value::Int(count);
}

template <bool at_end>
Result EdgeMethod(const Value& self, const BoundArguments& arguments, const NativeContext&) {
  OCTAVO_ASSIGN_OR_RETURN(const Window window, WindowOf(self.text(), arguments));
  const auto* several = arguments[0].As<Sequence>();
  const bool tuple = several != nullptr && several->kind == SequenceKind::kTuple;
  const Items parts = tuple ? several->data->items : Items{arguments[0]};
  for (const Value& part : parts) {
    if (!part.IsString()) return TypeError("a string or a tuple of strings is needed", part);
    if (!window.exists) continue;
    const std::string_view within =
        std::string_view(self.text()).substr(window.begin, window.end - window.begin);
    if (at_end ? within.ends_with(part.text()) : within.starts_with(part.text())) {
      return Value::Bool(true);
    }
  }
  return Value::Bool(false);
}

template <bool (*belongs)(char)>
Result AsciiClass(const Value& self, const BoundArguments&, const NativeContext&) {
  const std::string& text = self.text();
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) {
      return RenderError("the classes of characters outside ASCII are not handled");
    }
  }
  return Value::Bool(!text.empty() && std::all_of(text.begin(), text.end(), belongs));
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool IsUpper(char c) { return c >= 'A' && c <= 'Z'; }
bool IsAlpha(char c) { return IsLower(c) || IsUpper(c); }
bool IsAlnum(char c) { return IsAlpha(c) || IsDigit(c); }

Result IsSpace(const Value& self, const BoundArguments&, const NativeContext&) {
  return Value::Bool(!self.text().empty() && Strip(self.text()).empty());
}

// At least one letter with case, and all in this one.
template <Case to>
Result IsCase(const Value& self, const BoundArguments&, const NativeContext&) {
  const std::string& text = self.text();
  return Value::Bool(WithCase(text, to) == text &&
                     WithCase(text, to == Case::kLower ? Case::kUpper : Case::kLower) != text);
}

constexpr auto kSearchMethods = std::to_array<FunctionEntry>({
    {"startswith", "prefix start end", 1, EdgeMethod<false>},
    {"endswith", "suffix start end", 1, EdgeMethod<true>},
    {"find", "sub start end", 1, FindMethodOf<false, false>},
    {"rfind", "sub start end", 1, FindMethodOf<true, false>},
    {"index", "sub start end", 1, FindMethodOf<false, true>},
    {"rindex", "sub start end", 1, FindMethodOf<true, true>},
    {"count", "sub start end", 1, Count},
    {"isdigit", "", 0, AsciiClass<IsDigit>},
    {"isalpha", "", 0, AsciiClass<IsAlpha>},
    {"isalnum", "", 0, AsciiClass<IsAlnum>},
    {"isspace", "", 0, IsSpace},
    {"islower", "", 0, IsCase<Case::kLower>},
    {"isupper", "", 0, IsCase<Case::kUpper>},
});

}  // namespace

std::span<const FunctionEntry> SearchMethods() { return kSearchMethods; }

}  // namespace octavo::jinja
