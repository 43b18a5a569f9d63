// Filters on sequences as a whole, and defaults.

#include <algorithm>
#include <array>

#include "core/base/status.h"
#include "core/text/jinja/format.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/native.h"
#include "core/text/jinja/operators.h"
#include "core/text/jinja/paths.h"
#include "core/text/jinja/strings.h"

namespace octavo::jinja {
namespace {

using Result = absl::StatusOr<Value>;

Result Default(const Value& self, const BoundArguments& arguments, const NativeContext&) {
  if (!self.IsUndefined() && (!arguments.Flag(1) || Truth(self))) return self;
  return arguments.Has(0) ? arguments[0] : Value::Text("");
}

Result First(const Value& self, const BoundArguments&, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(Iterator iterator, Iterate(self, context.budget));
  OCTAVO_ASSIGN_OR_RETURN(const auto item, iterator.Next());
  return item ? *item : Value::UndefinedValue("No first item, sequence was empty.");
}

// Whether Python's reversed() takes it.
bool IsReversible(const Value& value) { return Length(value).has_value() && IsIterable(value); }

Result Last(const Value& self, const BoundArguments&, const NativeContext& context) {
  if (!IsReversible(self)) return TypeError("an object that cannot be reversed", self);
  if (self.IsString() || AsItems(self) != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(Value last, GetItem(self, Value::Int(-1), context.budget));
    if (!last.IsUndefined() || *Length(self) > 0) return last;
    return Value::UndefinedValue("No last item, sequence was empty.");
  }
  OCTAVO_ASSIGN_OR_RETURN(const Items items, ToItems(self, context.budget));
  return items.empty() ? Value::UndefinedValue("No last item, sequence was empty.") : items.back();
}

Result LengthFilter(const Value& self, const BoundArguments&, const NativeContext& context) {
  if (const auto* loop = self.As<LoopState*>()) {
    OCTAVO_ASSIGN_OR_RETURN(const int64_t length, (*loop)->LengthOfAll());
    return Value::Int(length);
  }
  if (self.IsString()) OCTAVO_RETURN_IF_ERROR(context.budget.SpendBytes(self.text().size()));
  const auto length = Length(self);
  if (!length) return TypeError("an object without a length", self);
  return Value::Int(*length);
}

Result List(const Value& self, const BoundArguments&, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(Items items, ToItems(self, context.budget));
  return MakeList(std::move(items), context.budget);
}

Result ItemsFilter(const Value& self, const BoundArguments&, const NativeContext& context) {
  if (self.IsUndefined()) return StreamOf({}, context.budget);
  const auto* dict = self.As<Dict>();
  if (dict == nullptr) return TypeError("can only get item pairs from a mapping", self);
  OCTAVO_ASSIGN_OR_RETURN(Items pairs,
                          ToItems(Value::Of(View{ViewKind::kItems, dict->data}), context.budget));
  return StreamOf(std::move(pairs), context.budget);
}

Result JoinFilter(const Value& self, const BoundArguments& arguments,
                  const NativeContext& context) {
  std::string separator;
  if (arguments.Has(0)) {
    OCTAVO_ASSIGN_OR_RETURN(separator, ToText(arguments[0], context.budget));
  }
  OCTAVO_ASSIGN_OR_RETURN(Iterator iterator, Iterate(self, context.budget));
  std::string out;
  for (bool first = true;; first = false) {
    OCTAVO_ASSIGN_OR_RETURN(auto item, iterator.Next());
    if (!item) return Value::Text(std::move(out));
    if (const Value* path = arguments.Given(1)) {
      OCTAVO_ASSIGN_OR_RETURN(item, FollowPath(*item, *path, context.budget));
    }
    OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(*item, context.budget));
    OCTAVO_RETURN_IF_ERROR(context.budget.Make(separator.size()));
    if (!first) out += separator;
    out += text;
  }
}

Result Reverse(const Value& self, const BoundArguments&, const NativeContext& context) {
  if (self.IsString()) {
    OCTAVO_RETURN_IF_ERROR(context.budget.Make(self.text().size() * sizeof(std::string_view)));
    const auto characters = Characters(self.text());
    std::string out;
    for (auto it = characters.rbegin(); it != characters.rend(); ++it) out += *it;
    return MakeText(std::move(out), context.budget);
  }
  OCTAVO_ASSIGN_OR_RETURN(Items items, ToItems(self, context.budget));
  std::reverse(items.begin(), items.end());
  if (IsReversible(self)) return StreamOf(std::move(items), context.budget);
  return MakeList(std::move(items), context.budget);
}

Result Sum(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  Value total = arguments.Has(1) ? arguments[1] : Value::Int(0);
  if (total.IsString()) return RenderError("sum() cannot add strings");
  OCTAVO_ASSIGN_OR_RETURN(Iterator iterator, Iterate(self, context.budget));
  while (true) {
    OCTAVO_ASSIGN_OR_RETURN(auto item, iterator.Next());
    if (!item) return total;
    if (const Value* path = arguments.Given(0)) {
      OCTAVO_ASSIGN_OR_RETURN(item, FollowPath(*item, *path, context.budget));
    }
    OCTAVO_ASSIGN_OR_RETURN(total, ApplyBinary(BinaryOp::kAdd, total, *item, context.budget));
  }
}

Result Attr(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view name, arguments.Text(0, ""));
  return GetAttributeOnly(self, name, context.budget);
}

Result Batch(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const int64_t size, arguments.Int(0, 1));
  OCTAVO_ASSIGN_OR_RETURN(const Items items, ToItems(self, context.budget));
  if (size < 1) return RenderError("batch: a size below 1 is not handled");
  Items batches;
  for (size_t at = 0; at < items.size();) {
    const size_t count = std::min<size_t>(static_cast<size_t>(size), items.size() - at);
    Items batch(items.begin() + static_cast<std::ptrdiff_t>(at),
                items.begin() + static_cast<std::ptrdiff_t>(at + count));
    at += count;
    if (const Value* fill = arguments.Given(1)) {
      const size_t missing = static_cast<size_t>(size) - count;
      if (missing > kRangeItemsMax) return RenderError("batch: too much to fill");
      batch.insert(batch.end(), missing, *fill);
    }
    OCTAVO_ASSIGN_OR_RETURN(Value list, MakeList(std::move(batch), context.budget));
    batches.push_back(std::move(list));
  }
  return StreamOf(std::move(batches), context.budget);
}

Result Slice(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const int64_t slices, arguments.Int(0, 1));
  OCTAVO_ASSIGN_OR_RETURN(const Items items, ToItems(self, context.budget));
  if (slices < 1 || slices > kRangeItemsMax) return RenderError("slice: a count out of range");
  const size_t each = items.size() / static_cast<size_t>(slices);
  const size_t longer = items.size() % static_cast<size_t>(slices);
  Items lists;
  auto begin = items.begin();
  for (size_t i = 0; i < static_cast<size_t>(slices); ++i) {
    const auto end = begin + static_cast<std::ptrdiff_t>(each + (i < longer ? 1 : 0));
    Items part(begin, end);
    begin = end;
    if (arguments.Given(1) != nullptr && i >= longer) part.push_back(arguments[1]);
    OCTAVO_ASSIGN_OR_RETURN(Value list, MakeList(std::move(part), context.budget));
    lists.push_back(std::move(list));
  }
  return StreamOf(std::move(lists), context.budget);
}

constexpr auto kSequenceFilters = std::to_array<FunctionEntry>({
    {"default", "default_value boolean", 0, Default},
    {"d", "default_value boolean", 0, Default},
    {"first", "", 0, First},
    {"last", "", 0, Last},
    {"length", "", 0, LengthFilter},
    {"count", "", 0, LengthFilter},
    {"list", "", 0, List},
    {"items", "", 0, ItemsFilter},
    {"join", "d attribute", 0, JoinFilter},
    {"reverse", "", 0, Reverse},
    {"sum", "attribute start", 0, Sum},
    {"attr", "name", 1, Attr},
    {"batch", "linecount fill_with", 1, Batch},
    {"slice", "slices fill_with", 1, Slice},
});

}  // namespace

std::span<const FunctionEntry> SequenceFilters() { return kSequenceFilters; }

}  // namespace octavo::jinja
