// The functions that every template sees.

#include <time.h>

#include <array>

#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/format.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/native.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

using Result = absl::StatusOr<Value>;

Result Range(const Value&, const BoundArguments& arguments, const NativeContext& context) {
  std::array<int64_t, 3> parts = {0, 0, 1};  // start, stop, step
  for (size_t i = 0; i < 3; ++i) {
    OCTAVO_ASSIGN_OR_RETURN(parts[i], arguments.Int(i, parts[i]));
  }
  auto [start, stop, step] = parts;
  if (!arguments.Has(1)) std::swap(start, stop);
  if (step == 0) return RenderError("range() step must not be zero");
  // In 128 bits, as the ends may be anywhere.
  const __int128 span =
      step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
  const __int128 stride = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
  const __int128 count = span <= 0 ? 0 : (span + stride - 1) / stride;
  if (count > kRangeItemsMax) {
    return RenderError(fmt::format("a range of more than {} numbers", kRangeItemsMax));
  }
  Items items;
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) {
    items.push_back(Value::Int(start + i * step));
  }
  return MakeSequence(SequenceKind::kRange, std::move(items), context.budget);
}

// The entries of dict(mapping or pairs, name=value, ...).
absl::StatusOr<Entries> EntriesOf(const BoundArguments& arguments, const NativeContext& context) {
  Entries entries;
  const Arguments& given = arguments.rest();
  if (given.positional.size() > 1) return RenderError("dict expected at most 1 argument");
  if (given.positional.size() == 1) {
    const Value& first = given.positional[0];
    if (const Entries* mapping = AsEntries(first)) {
      entries = *mapping;
    } else {
      OCTAVO_ASSIGN_OR_RETURN(const Items pairs, ToItems(first, context.budget));
      for (const Value& pair : pairs) {
        OCTAVO_ASSIGN_OR_RETURN(const Items both, ToItems(pair, context.budget));
        if (both.size() != 2) return RenderError("dict: a pair needs two elements");
        entries.emplace_back(both[0], both[1]);
      }
    }
  }
  for (const auto& [name, value] : given.named) entries.emplace_back(Value::Text(name), value);
  return entries;
}

Result MakeDictGlobal(const Value&, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(Entries entries, EntriesOf(arguments, context));
  return MakeDict(std::move(entries), context.budget);
}

Result Namespace(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const Value dict, MakeDictGlobal(self, arguments, context));
  context.namespaces.push_back({.attributes = *AsEntries(dict)});
  return Value::Of(&context.namespaces.back());
}

Result RaiseException(const Value&, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string message, ToText(arguments[0], context.budget));
  return RenderError(message);
}

// datetime.now().strftime(format): local time, without a zone.
Result StrftimeNow(const Value&, const BoundArguments& arguments, const NativeContext& context) {
  constexpr size_t kFormatBytesMax = 1000;
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view format, arguments.Text(0, ""));
  if (format.size() > kFormatBytesMax) return RenderError("strftime_now: the format is too long");
  constexpr int64_t kSecond = 1'000'000'000;
  const time_t seconds = static_cast<time_t>(context.now_ns / kSecond);
  struct tm parts = {};
  localtime_r(&seconds, &parts);
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    std::string directive = "%";
    while (++i < format.size()) {
      directive += format[i];
      if (std::string_view("-_^#0123456789EO").find(format[i]) == std::string_view::npos) break;
    }
    const char kind = directive.back();
    if (directive.size() == 1) {
      out += '%';
    } else if (directive == "%f") {
      out += fmt::format("{:06}", context.now_ns % kSecond / 1000);
    } else if (kind != 'z' && kind != 'Z') {  // of a time without a zone these are empty
      std::array<char, 256> text = {};
      out.append(text.data(), strftime(text.data(), text.size(), directive.c_str(), &parts));
    }
  }
  return MakeText(std::move(out), context.budget);
}

constexpr auto kGlobals = std::to_array<FunctionEntry>({
    {"range", "start stop step", 1, Range},
    {"dict", "", 0, MakeDictGlobal, true},
    {"namespace", "", 0, Namespace, true},
    {"raise_exception", "message", 1, RaiseException},
    {"strftime_now", "format", 1, StrftimeNow},
});

}  // namespace

std::span<const FunctionEntry> Globals() { return kGlobals; }

}  // namespace octavo::jinja
