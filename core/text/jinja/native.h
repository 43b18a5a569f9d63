#pragma once

// Functions that come with the language: filters, tests, methods and globals share one form. Each
// is a row of a table: its name, its parameters, and what it does.

#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/text/jinja/state.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

struct Arguments {
  Items positional;
  std::vector<std::pair<std::string, Value>> named;
};

// What a call passes for each parameter of the table's row.
class BoundArguments {
 public:
  BoundArguments(std::vector<std::optional<Value>> values, Arguments rest)
      : values_(std::move(values)), rest_(std::move(rest)) {}
  bool Has(size_t i) const { return i < values_.size() && values_[i].has_value(); }
  // REQUIRES: Has(i).
  const Value& operator[](size_t i) const { return *values_[i]; }
  // Null where it was left out or is none.
  const Value* Given(size_t i) const {
    return Has(i) && !(*values_[i]).IsNone() ? &*values_[i] : nullptr;
  }
  bool Flag(size_t i) const { return Has(i) && Truth(*values_[i]); }
  // Errors: an argument that is no integer, or no text.
  absl::StatusOr<int64_t> Int(size_t i, int64_t otherwise) const;
  absl::StatusOr<std::string_view> Text(size_t i, std::string_view otherwise) const;
  // Of a row with `variadic`: what is beyond the parameters.
  const Arguments& rest() const { return rest_; }

 private:
  std::vector<std::optional<Value>> values_;
  Arguments rest_;
};

// What a function sees of the rendering.
struct NativeContext {
  Budget& budget;
  int64_t now_ns;                         // since the Unix epoch, for strftime_now
  std::deque<NamespaceData>& namespaces;  // of this rendering
};

// `self`: the value in front of a filter, a test or a method; a missing value for a global.
using NativeFunction = absl::StatusOr<Value> (*)(const Value& self, const BoundArguments& arguments,
                                                 const NativeContext& context);

struct FunctionEntry {
  std::string_view name;
  std::string_view parameters;  // "old new count": names in order, separated by a space
  size_t required;              // how many of them must be given
  NativeFunction function;
  bool variadic = false;  // takes any more arguments
};

// Errors: too many, too few, unknown or doubled arguments.
absl::StatusOr<Value> CallNative(const FunctionEntry& entry, const Value& self, Arguments arguments,
                                 const NativeContext& context);

// The tables. Null for a name that is not handled.
const FunctionEntry* FindFilter(std::string_view name);
const FunctionEntry* FindTest(std::string_view name);
const FunctionEntry* FindGlobal(std::string_view name);
// A method of this value's type.
const FunctionEntry* FindMethod(const Value& self, std::string_view name);

// Whether Jinja has a filter, test or global of this name that is left out here, or Python a
// method.
bool IsOmittedGlobal(std::string_view name);
bool IsOmittedMethod(std::string_view name);
// Methods that Jinja's sandbox refuses, as they would change a list or dict.
bool IsForbiddenMethod(const Value& self, std::string_view name);

// The parts of the tables, one per file.
std::span<const FunctionEntry> TextFilters();
std::span<const FunctionEntry> NumberFilters();
std::span<const FunctionEntry> SequenceFilters();
std::span<const FunctionEntry> ChoiceFilters();  // select, map, sort and their kin
std::span<const FunctionEntry> Tests();
std::span<const FunctionEntry> Globals();
std::span<const FunctionEntry> TextMethods();
std::span<const FunctionEntry> SearchMethods();  // of text, too
std::span<const FunctionEntry> DictMethods();
std::span<const FunctionEntry> ListMethods();

}  // namespace octavo::jinja
