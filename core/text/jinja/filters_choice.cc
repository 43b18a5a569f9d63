// Filters that apply a filter, a test or an order to every element.

#include <algorithm>
#include <array>

#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/native.h"
#include "core/text/jinja/paths.h"
#include "core/text/jinja/strings.h"
#include "core/text/jinja/unicode.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// A filter or test by the name that an argument gives.
absl::StatusOr<const FunctionEntry*> Named(const FunctionEntry* (*find)(std::string_view),
                                           const Value& name) {
  const FunctionEntry* entry = name.IsString() ? find(name.text()) : nullptr;
  if (entry != nullptr) return entry;
  return RenderError(name.IsString() ? fmt::format("no filter or test named '{}'", name.text())
                                     : "the name of a filter or test must be a string");
}

Items Holdings(const Value& self, const Arguments& arguments) {
  Items held = {self};
  held.insert(held.end(), arguments.positional.begin(), arguments.positional.end());
  for (const auto& [name, value] : arguments.named) held.push_back(value);
  return held;
}

// A generator that gives `transform` of each element, or leaves the element out for nullopt.
// Nothing happens before the first element is asked for; what is false has none.
template <typename Transform>
Result Generator(const Value& self, const Arguments& arguments, const NativeContext& context,
                 Transform transform) {
  auto next = [self, arguments, transform, &budget = context.budget,
               iterator =
                   std::optional<Iterator>()]() mutable -> absl::StatusOr<std::optional<Value>> {
    if (!iterator) {
      if (!Truth(self)) return std::nullopt;
      OCTAVO_ASSIGN_OR_RETURN(iterator, Iterate(self, budget));
    }
    while (true) {
      OCTAVO_ASSIGN_OR_RETURN(const auto item, iterator->Next());
      if (!item) return std::nullopt;
      OCTAVO_ASSIGN_OR_RETURN(std::optional<Value> made, transform(*item, arguments));
      if (made) return made;
    }
  };
  return MakeStream(std::move(next), Holdings(self, arguments));
}

Arguments WithoutFirst(const Arguments& arguments, size_t count) {
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(count));
  return rest;
}

const Value* NamedArgument(const Arguments& arguments, std::string_view name) {
  for (const auto& [key, value] : arguments.named) {
    if (key == name) return &value;
  }
  return nullptr;
}

Result Map(const Value& self, const BoundArguments& bound, const NativeContext& context) {
  const Arguments& arguments = bound.rest();
  if (arguments.positional.empty() && NamedArgument(arguments, "attribute") != nullptr) {
    for (const auto& [name, value] : arguments.named) {
      if (name != "attribute" && name != "default") {
        return RenderError(fmt::format("map: unexpected keyword argument '{}'", name));
      }
    }
    return Generator(
        self, arguments, context,
        [&budget = context.budget](const Value& item,
                                   const Arguments& given) -> absl::StatusOr<std::optional<Value>> {
          const Value* otherwise = NamedArgument(given, "default");
          return FollowPath(item, *NamedArgument(given, "attribute"), budget,
                            otherwise ? *otherwise : Value::NoneValue());
        });
  }
  if (arguments.positional.empty()) return RenderError("map requires a filter argument");
  return Generator(
      self, arguments, context,
      [context](const Value& item, const Arguments& given) -> absl::StatusOr<std::optional<Value>> {
        OCTAVO_ASSIGN_OR_RETURN(const auto* filter, Named(FindFilter, given.positional[0]));
        return CallNative(*filter, item, WithoutFirst(given, 1), context);
      });
}

// select, reject, selectattr, rejectattr.
template <bool wanted, bool by_attribute>
Result Choose(const Value& self, const BoundArguments& bound, const NativeContext& context) {
  const Arguments& arguments = bound.rest();
  constexpr size_t kTestAt = by_attribute ? 1 : 0;
  if (arguments.positional.size() < kTestAt) {
    return RenderError("missing parameter for attribute name");
  }
  return Generator(
      self, arguments, context,
      [context](const Value& item, const Arguments& given) -> absl::StatusOr<std::optional<Value>> {
        Value subject = item;
        if (by_attribute) {
          OCTAVO_ASSIGN_OR_RETURN(subject, FollowPath(item, given.positional[0], context.budget));
        }
        bool holds = Truth(subject);
        if (given.positional.size() > kTestAt) {
          OCTAVO_ASSIGN_OR_RETURN(const auto* test, Named(FindTest, given.positional[kTestAt]));
          OCTAVO_ASSIGN_OR_RETURN(
              const Value result,
              CallNative(*test, subject, WithoutFirst(given, kTestAt + 1), context));
          holds = Truth(result);
        }
        return holds == wanted ? std::optional(item) : std::nullopt;
      });
}

// Text in lower case, unless case matters; anything else as it is.
Result SortKey(Value value, bool case_sensitive, Budget& budget) {
  if (case_sensitive || !value.IsString()) return value;
  return MakeText(WithCase(value.text(), Case::kLower), budget);
}

struct Keyed {
  Value key;
  Value value;
};

// Stable, and safe with keys that have no order: the first error ends it.
absl::Status MergeSort(std::vector<Keyed>* items, bool descending, Budget& budget) {
  std::vector<Keyed> merged(items->size());
  for (size_t width = 1; width < items->size(); width *= 2) {
    for (size_t begin = 0; begin < items->size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, items->size());
      const size_t end = std::min(begin + 2 * width, items->size());
      size_t left = begin;
      size_t right = middle;
      for (size_t to = begin; to < end; ++to) {
        bool take_right = left == middle;
        if (left < middle && right < end) {
          OCTAVO_ASSIGN_OR_RETURN(const auto order,
                                  Order((*items)[right].key, (*items)[left].key, budget));
          take_right = descending ? order > 0 : order < 0;
        }
        merged[to] = std::move((*items)[take_right ? right++ : left++]);
      }
    }
    items->swap(merged);
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> Sorted(std::vector<Keyed> items, bool descending, Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(MergeSort(&items, descending, budget));
  Items out;
  for (Keyed& item : items) out.push_back(std::move(item.value));
  return MakeList(std::move(out), budget);
}

// sort(reverse, case_sensitive, attribute): by several attributes where commas separate them.
Result Sort(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(Items items, ToItems(self, context.budget));
  const Value* attribute = arguments.Given(2);
  Items paths;
  if (attribute != nullptr && attribute->IsString()) {
    for (const std::string_view part : Split(attribute->text(), ",", -1)) {
      paths.push_back(Value::Text(std::string(part)));
    }
  } else {
    paths.push_back(attribute == nullptr ? Value::NoneValue() : *attribute);
  }
  std::vector<Keyed> keyed;
  for (Value& item : items) {
    Items keys;
    for (const Value& path : paths) {
      OCTAVO_ASSIGN_OR_RETURN(Value key, FollowPath(item, path, context.budget));
      OCTAVO_ASSIGN_OR_RETURN(key, SortKey(std::move(key), arguments.Flag(1), context.budget));
      keys.push_back(std::move(key));
    }
    OCTAVO_ASSIGN_OR_RETURN(Value key, MakeList(std::move(keys), context.budget));
    keyed.push_back({std::move(key), std::move(item)});
  }
  return Sorted(std::move(keyed), arguments.Flag(0), context.budget);
}

Result DictSort(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  const auto* dict = self.As<Dict>();
  if (dict == nullptr) return TypeError("dictsort: a dict is needed", self);
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view by, arguments.Text(1, "key"));
  if (by != "key" && by != "value") return RenderError("dictsort: by is \"key\" or \"value\"");
  std::vector<Keyed> keyed;
  for (const auto& [name, value] : dict->data->entries) {
    OCTAVO_ASSIGN_OR_RETURN(Value key,
                            SortKey(by == "key" ? name : value, arguments.Flag(0), context.budget));
    OCTAVO_ASSIGN_OR_RETURN(Value pair, MakeTuple({name, value}, context.budget));
    keyed.push_back({std::move(key), std::move(pair)});
  }
  return Sorted(std::move(keyed), arguments.Flag(2), context.budget);
}

// The key of unique, min and max, whose parameters are case_sensitive and attribute.
Result KeyOf(const Value& item, const BoundArguments& arguments, Budget& budget) {
  const Value* path = arguments.Given(1);
  OCTAVO_ASSIGN_OR_RETURN(Value key,
                          FollowPath(item, path == nullptr ? Value::NoneValue() : *path, budget));
  return SortKey(std::move(key), arguments.Flag(0), budget);
}

Result Unique(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(Items items, ToItems(self, context.budget));
  Entries seen;
  Items kept;
  for (Value& item : items) {
    OCTAVO_ASSIGN_OR_RETURN(Value key, KeyOf(item, arguments, context.budget));
    OCTAVO_RETURN_IF_ERROR(CheckHashable(key));
    OCTAVO_ASSIGN_OR_RETURN(const size_t found, FindKey(seen, key, context.budget));
    if (found != seen.size()) continue;
    seen.emplace_back(std::move(key), Value::NoneValue());
    kept.push_back(std::move(item));
  }
  return StreamOf(std::move(kept), context.budget);
}

template <bool largest>
Result Extreme(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const Items items, ToItems(self, context.budget));
  if (items.empty()) {
    return Value::UndefinedValue("No aggregated item, sequence was empty.");
  }
  const Value* best = nullptr;
  Value best_key;
  for (const Value& item : items) {
    OCTAVO_ASSIGN_OR_RETURN(Value key, KeyOf(item, arguments, context.budget));
    if (best != nullptr) {
      OCTAVO_ASSIGN_OR_RETURN(const auto order, Order(key, best_key, context.budget));
      if (!(largest ? order > 0 : order < 0)) continue;
    }
    best = &item;
    best_key = std::move(key);
  }
  return *best;
}

constexpr auto kChoiceFilters = std::to_array<FunctionEntry>({
    {"map", "", 0, Map, true},
    {"select", "", 0, Choose<true, false>, true},
    {"reject", "", 0, Choose<false, false>, true},
    {"selectattr", "", 0, Choose<true, true>, true},
    {"rejectattr", "", 0, Choose<false, true>, true},
    {"sort", "reverse case_sensitive attribute", 0, Sort},
    {"dictsort", "case_sensitive by reverse", 0, DictSort},
    {"unique", "case_sensitive attribute", 0, Unique},
    {"min", "case_sensitive attribute", 0, Extreme<false>},
    {"max", "case_sensitive attribute", 0, Extreme<true>},
});

}  // namespace

std::span<const FunctionEntry> ChoiceFilters() { return kChoiceFilters; }

}  // namespace octavo::jinja
