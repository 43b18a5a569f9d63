#include "core/text/jinja/native.h"

#include <algorithm>
#include <array>

#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

std::vector<std::string_view> Names(std::string_view parameters) {
  std::vector<std::string_view> names;
  while (!parameters.empty()) {
    const size_t end = std::min(parameters.find(' '), parameters.size());
    names.push_back(parameters.substr(0, end));
    parameters.remove_prefix(std::min(end + 1, parameters.size()));
  }
  return names;
}

absl::StatusOr<BoundArguments> Bind(const FunctionEntry& entry, Arguments arguments) {
  const std::vector<std::string_view> names = Names(entry.parameters);
  std::vector<std::optional<Value>> values(names.size());
  Arguments rest;
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    if (i < names.size()) {
      values[i] = std::move(arguments.positional[i]);
    } else if (entry.variadic) {
      rest.positional.push_back(std::move(arguments.positional[i]));
    } else {
      return RenderError(fmt::format("{} takes at most {} arguments", entry.name, names.size()));
    }
  }
  for (auto& [name, value] : arguments.named) {
    const size_t i = std::find(names.begin(), names.end(), name) - names.begin();
    if (i < names.size() && !values[i]) {
      values[i] = std::move(value);
    } else if (i == names.size() && entry.variadic) {
      rest.named.emplace_back(std::move(name), std::move(value));
    } else {
      return RenderError(fmt::format("{} does not take the argument '{}'", entry.name, name));
    }
  }
  for (size_t i = 0; i < entry.required; ++i) {
    if (!values[i]) return RenderError(fmt::format("{} needs '{}'", entry.name, names[i]));
  }
  return BoundArguments(std::move(values), std::move(rest));
}

const FunctionEntry* FindIn(std::span<const FunctionEntry> table, std::string_view name) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const FunctionEntry& entry) { return entry.name == name; });
  return found == table.end() ? nullptr : &*found;
}

const FunctionEntry* FindInAny(std::initializer_list<std::span<const FunctionEntry>> tables,
                               std::string_view name) {
  for (const auto& table : tables) {
    if (const FunctionEntry* found = FindIn(table, name)) return found;
  }
  return nullptr;
}

template <size_t n>
bool IsOneOf(const std::array<std::string_view, n>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

absl::StatusOr<int64_t> BoundArguments::Int(size_t i, int64_t otherwise) const {
  if (!Has(i)) return otherwise;
  const auto value = AsInt(*values_[i]);
  if (!value) return TypeError("an integer is needed", *values_[i]);
  return *value;
}

absl::StatusOr<std::string_view> BoundArguments::Text(size_t i, std::string_view otherwise) const {
  if (!Has(i)) return otherwise;
  if (!values_[i]->IsString()) return TypeError("a string is needed", *values_[i]);
  return values_[i]->text();
}

absl::StatusOr<Value> CallNative(const FunctionEntry& entry, const Value& self, Arguments arguments,
                                 const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const BoundArguments bound, Bind(entry, std::move(arguments)));
  return entry.function(self, bound, context);
}

const FunctionEntry* FindFilter(std::string_view name) {
  return FindInAny({TextFilters(), NumberFilters(), SequenceFilters(), ChoiceFilters()}, name);
}

const FunctionEntry* FindTest(std::string_view name) { return FindIn(Tests(), name); }

const FunctionEntry* FindGlobal(std::string_view name) { return FindIn(Globals(), name); }

const FunctionEntry* FindMethod(const Value& self, std::string_view name) {
  if (self.IsString()) return FindInAny({TextMethods(), SearchMethods()}, name);
  if (AsEntries(self) != nullptr) return FindIn(DictMethods(), name);
  const FunctionEntry* found = AsItems(self) != nullptr ? FindIn(ListMethods(), name) : nullptr;
  // A tuple and a range have index and count, but no copy.
  if (found != nullptr && found->name == "copy" &&
      self.As<Sequence>()->kind != SequenceKind::kList) {
    return nullptr;
  }
  return found;
}

bool IsOmittedGlobal(std::string_view name) {
  static constexpr std::array<std::string_view, 5> kNames = {"lipsum", "cycler", "joiner", "self",
                                                             "super"};
  return IsOneOf(kNames, name);
}

bool IsOmittedMethod(std::string_view name) {
  static constexpr std::array<std::string_view, 25> kNames = {
      "as_integer_ratio", "bit_count",    "bit_length", "casefold",   "conjugate",
      "encode",           "expandtabs",   "format",     "format_map", "fromhex",
      "fromkeys",         "from_bytes",   "hex",        "isascii",    "isdecimal",
      "isdisjoint",       "isidentifier", "isnumeric",  "istitle",    "is_integer",
      "isprintable",      "maketrans",    "send",       "to_bytes",   "translate"};
  return IsOneOf(kNames, name);
}

bool IsForbiddenMethod(const Value& self, std::string_view name) {
  static constexpr std::array<std::string_view, 5> kDict = {"clear", "pop", "popitem", "setdefault",
                                                            "update"};
  static constexpr std::array<std::string_view, 8> kList = {"append", "clear", "pop",    "reverse",
                                                            "insert", "sort",  "extend", "remove"};
  if (AsEntries(self) != nullptr) return IsOneOf(kDict, name);
  const auto* sequence = self.As<Sequence>();
  return sequence != nullptr && sequence->kind == SequenceKind::kList && IsOneOf(kList, name);
}

}  // namespace octavo::jinja
