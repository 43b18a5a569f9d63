#include "core/text/jinja/iterate.h"

#include "core/base/status.h"
#include "core/text/jinja/strings.h"
#include "core/text/utf8.h"

namespace octavo::jinja {

absl::StatusOr<std::optional<Value>> Iterator::Next() {
  OCTAVO_RETURN_IF_ERROR(budget_->Spend(1));
  if (const auto* stream = value_.As<std::shared_ptr<Stream>>()) return (*stream)->next();
  if (value_.IsString()) {
    const std::string_view rest = std::string_view(value_.text()).substr(at_);
    if (rest.empty()) return std::nullopt;
    const size_t size = DecodeUtf8(rest).size;
    at_ += size;
    OCTAVO_ASSIGN_OR_RETURN(Value character, MakeText(std::string(rest.substr(0, size)), *budget_));
    return character;
  }
  if (const Items* items = AsItems(value_)) {
    if (at_ == items->size()) return std::nullopt;
    return (*items)[at_++];
  }
  const auto* view = value_.As<View>();
  const Entries* entries = view != nullptr ? &view->data->entries : AsEntries(value_);
  if (entries == nullptr || at_ == entries->size()) return std::nullopt;
  const auto& [key, value] = (*entries)[at_++];
  if (view == nullptr || view->kind == ViewKind::kKeys) return key;
  if (view->kind == ViewKind::kValues) return value;
  OCTAVO_ASSIGN_OR_RETURN(Value pair, MakeTuple({key, value}, *budget_));
  return pair;
}

bool IsIterable(const Value& value) {
  return value.IsUndefined() || value.IsString() || AsItems(value) != nullptr ||
         AsEntries(value) != nullptr || value.As<View>() != nullptr ||
         value.As<std::shared_ptr<Stream>>() != nullptr;
}

absl::StatusOr<Iterator> Iterate(const Value& value, Budget& budget) {
  if (!IsIterable(value)) return TypeError("an object that is not iterable", value);
  return Iterator(value, &budget);
}

absl::StatusOr<Items> ToItems(const Value& value, Budget& budget) {
  if (const Items* items = AsItems(value)) {
    OCTAVO_RETURN_IF_ERROR(budget.Make(items->size() * sizeof(Value)));
    return *items;
  }
  OCTAVO_ASSIGN_OR_RETURN(Iterator iterator, Iterate(value, budget));
  Items items;
  while (true) {
    OCTAVO_ASSIGN_OR_RETURN(auto item, iterator.Next());
    if (!item) return items;
    OCTAVO_RETURN_IF_ERROR(budget.Make(sizeof(Value)));
    items.push_back(*std::move(item));
  }
}

std::optional<int64_t> Length(const Value& value) {
  if (value.IsUndefined()) return 0;
  if (value.IsString()) return CountCharacters(value.text());
  if (const Items* items = AsItems(value)) return items->size();
  if (const Entries* entries = AsEntries(value)) return entries->size();
  if (const auto* view = value.As<View>()) return view->data->entries.size();
  return std::nullopt;
}

}  // namespace octavo::jinja
