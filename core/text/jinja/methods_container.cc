// Methods of dicts and lists that only look.

#include <array>

#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/native.h"

namespace octavo::jinja {
namespace {

using Result = absl::StatusOr<Value>;

Result Get(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  const Entries& entries = *AsEntries(self);
  OCTAVO_RETURN_IF_ERROR(CheckHashable(arguments[0]));
  OCTAVO_ASSIGN_OR_RETURN(const size_t found, FindKey(entries, arguments[0], context.budget));
  if (found != entries.size()) return entries[found].second;
  return arguments.Has(1) ? arguments[1] : Value::NoneValue();
}

template <ViewKind kind>
Result MakeView(const Value& self, const BoundArguments&, const NativeContext&) {
  return Value::Of(View{kind, self.As<Dict>()->data});
}

Result Same(const Value& self, const BoundArguments&, const NativeContext&) { return self; }

Result Index(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  const Items& items = *AsItems(self);
  const auto size = static_cast<int64_t>(items.size());
  OCTAVO_ASSIGN_OR_RETURN(int64_t begin, arguments.Int(1, 0));
  OCTAVO_ASSIGN_OR_RETURN(int64_t end, arguments.Int(2, size));
  if (begin < 0) begin = std::max<int64_t>(begin + size, 0);
  if (end < 0) end += size;
  for (int64_t i = begin; i < std::min(end, size); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(const bool equal,
                            Equal(items[static_cast<size_t>(i)], arguments[0], context.budget));
    if (equal) return Value::Int(i);
  }
  return RenderError("index: the value is not in the list");
}

Result CountElement(const Value& self, const BoundArguments& arguments,
                    const NativeContext& context) {
  int64_t count = 0;
  for (const Value& item : *AsItems(self)) {
    OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(item, arguments[0], context.budget));
    count += equal ? 1 : 0;
  }
  return Value::Int(count);
}

constexpr auto kDict = std::to_array<FunctionEntry>({
    {"get", "key default", 1, Get},
    {"items", "", 0, MakeView<ViewKind::kItems>},
    {"keys", "", 0, MakeView<ViewKind::kKeys>},
    {"values", "", 0, MakeView<ViewKind::kValues>},
    {"copy", "", 0, Same},
});

constexpr auto kList = std::to_array<FunctionEntry>({
    {"index", "value start stop", 1, Index},
    {"count", "value", 1, CountElement},
    {"copy", "", 0, Same},
});

}  // namespace

std::span<const FunctionEntry> DictMethods() { return kDict; }
std::span<const FunctionEntry> ListMethods() { return kList; }

}  // namespace octavo::jinja
