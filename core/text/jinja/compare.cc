#include "core/text/jinja/compare.h"

#include <cmath>

#include "core/base/status.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/strings.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

// An int and a float without rounding the int.
std::partial_ordering OrderMixed(int64_t integer, double number) {
  if (std::isnan(number)) return std::partial_ordering::unordered;
  if (number >= 9223372036854775808.0) return std::partial_ordering::less;
  if (number < -9223372036854775808.0) return std::partial_ordering::greater;
  const double whole = std::trunc(number);
  const auto truncated = static_cast<int64_t>(whole);
  if (integer != truncated) return integer <=> truncated;
  return 0.0 <=> (number - whole);
}

std::partial_ordering OrderNumbers(const Value& left, const Value& right) {
  const auto a = AsInt(left);
  const auto b = AsInt(right);
  if (a && b) return *a <=> *b;
  if (a) return OrderMixed(*a, *AsDouble(right));
  if (b) {
    const std::partial_ordering turned = OrderMixed(*b, *AsDouble(left));
    return 0 <=> turned;
  }
  return *AsDouble(left) <=> *AsDouble(right);
}

absl::StatusOr<bool> EqualItems(const Items& left, const Items& right, Budget& budget) {
  if (left.size() != right.size()) return false;
  for (size_t i = 0; i < left.size(); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(left[i], right[i], budget));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> EqualDicts(const Entries& left, const Entries& right, Budget& budget) {
  if (left.size() != right.size()) return false;
  for (const auto& [key, value] : left) {
    OCTAVO_ASSIGN_OR_RETURN(const size_t found, FindKey(right, key, budget));
    if (found == right.size()) return false;
    OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(value, right[found].second, budget));
    if (!equal) return false;
  }
  return true;
}

bool SameObject(const Value& left, const Value& right) {
  if (left.data().index() != right.data().index()) return false;
  auto same = [&]<typename T>(T) { return *left.As<T>() == *right.As<T>(); };
  if (left.As<std::shared_ptr<Stream>>()) return same(std::shared_ptr<Stream>());
  if (left.As<NamespaceData*>()) return same(static_cast<NamespaceData*>(nullptr));
  if (left.As<LoopState*>()) return same(static_cast<LoopState*>(nullptr));
  if (left.As<const MacroData*>()) return same(static_cast<const MacroData*>(nullptr));
  if (left.As<const FunctionEntry*>()) return same(static_cast<const FunctionEntry*>(nullptr));
  if (const auto* view = left.As<View>()) {
    const auto* other = right.As<View>();
    return view->kind == other->kind && view->data == other->data;
  }
  return false;
}

}  // namespace

absl::StatusOr<bool> Equal(const Value& left, const Value& right, Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(budget.Spend(1));
  if (left.IsString() && right.IsString()) {
    OCTAVO_RETURN_IF_ERROR(budget.SpendBytes(left.text().size()));
    return left.text() == right.text();
  }
  if (AsDouble(left) && AsDouble(right)) {
    return OrderNumbers(left, right) == std::partial_ordering::equivalent;
  }
  if (left.IsNone() || left.IsUndefined()) return left.data().index() == right.data().index();
  const auto* a = left.As<Sequence>();
  const auto* b = right.As<Sequence>();
  if (a != nullptr && b != nullptr) {
    if (a->kind != b->kind) return false;
    return EqualItems(a->data->items, b->data->items, budget);
  }
  if (AsEntries(left) != nullptr && AsEntries(right) != nullptr) {
    return EqualDicts(*AsEntries(left), *AsEntries(right), budget);
  }
  return SameObject(left, right);
}

absl::StatusOr<std::partial_ordering> Order(const Value& left, const Value& right, Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(budget.Spend(1));
  if (left.IsString() && right.IsString()) {
    OCTAVO_RETURN_IF_ERROR(budget.SpendBytes(left.text().size()));
    return left.text().compare(right.text()) <=> 0;  // bytes of UTF-8 order as code points do
  }
  if (AsDouble(left) && AsDouble(right)) return OrderNumbers(left, right);
  const auto* a = left.As<Sequence>();
  const auto* b = right.As<Sequence>();
  if (a != nullptr && b != nullptr && a->kind == b->kind && a->kind != SequenceKind::kRange) {
    const Items& x = a->data->items;
    const Items& y = b->data->items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(x[i], y[i], budget));
      if (!equal) return Order(x[i], y[i], budget);
    }
    return x.size() <=> y.size();
  }
  if (left.IsUndefined()) return TypeError("", left);
  if (right.IsUndefined()) return TypeError("", right);
  return RenderError(fmt::format("a comparison by order is not supported between '{}' and '{}'",
                                 TypeName(left), TypeName(right)));
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item, Budget& budget) {
  if (container.IsString()) {
    if (!item.IsString()) return TypeError("'in <string>' needs a string on its left", item);
    OCTAVO_RETURN_IF_ERROR(budget.SpendBytes(container.text().size()));
    return Find(container.text(), item.text(), 0) != std::string::npos;
  }
  const auto* view = container.As<View>();
  if (AsEntries(container) != nullptr || (view != nullptr && view->kind == ViewKind::kKeys)) {
    const Entries& entries = view != nullptr ? view->data->entries : *AsEntries(container);
    OCTAVO_RETURN_IF_ERROR(CheckHashable(item));
    OCTAVO_ASSIGN_OR_RETURN(const size_t found, FindKey(entries, item, budget));
    return found != entries.size();
  }
  OCTAVO_ASSIGN_OR_RETURN(Iterator iterator, Iterate(container, budget));
  while (true) {
    OCTAVO_ASSIGN_OR_RETURN(const auto element, iterator.Next());
    if (!element) return false;
    OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(*element, item, budget));
    if (equal) return true;
  }
}

absl::Status CheckHashable(const Value& key) {
  if (AsEntries(key) != nullptr) return TypeError("unhashable type", key);
  const auto* sequence = key.As<Sequence>();
  if (sequence == nullptr) return absl::OkStatus();
  if (sequence->kind == SequenceKind::kList) return TypeError("unhashable type", key);
  if (sequence->data->nesting == 1) return absl::OkStatus();
  for (const Value& item : sequence->data->items) OCTAVO_RETURN_IF_ERROR(CheckHashable(item));
  return absl::OkStatus();
}

absl::StatusOr<size_t> FindKey(const Entries& entries, const Value& key, Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(budget.SpendItems(entries.size()));
  if (key.IsString()) {
    const Value* found = FindText(entries, key.text());
    if (found == nullptr) return entries.size();
    for (size_t i = 0; i < entries.size(); ++i) {
      if (&entries[i].second == found) return i;
    }
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(entries[i].first, key, budget));
    if (equal) return i;
  }
  return entries.size();
}

const Value* FindText(const Entries& entries, std::string_view key) {
  for (const auto& [name, value] : entries) {
    if (name.IsString() && name.text() == key) return &value;
  }
  return nullptr;
}

}  // namespace octavo::jinja
