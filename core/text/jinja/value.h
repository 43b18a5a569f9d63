#pragma once

// The values of a template, with Python's meaning: what `transformers` passes in (JSON), and what
// expressions make of it. Values are immutable and cheap to copy; containers are shared. The one
// exception is a namespace, which belongs to the rendering.
//
// Integers have 64 bits; beyond, an error (Python's have no end).

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "core/text/jinja/budget.h"
#include "nlohmann/json.hpp"

namespace octavo::jinja {

class Value;
using Items = std::vector<Value>;
using Entries = std::vector<std::pair<Value, Value>>;

// Jinja's undefined: empty as text and false, but an error where it is used otherwise.
struct Undefined {
  std::shared_ptr<const std::string> why;  // the error's text; null in a slot never assigned
};
struct None {};
struct String {
  std::shared_ptr<const std::string> text;  // UTF-8
  bool safe = false;                        // Markup: what is added to it with + is escaped as HTML
};
enum class SequenceKind { kList, kTuple, kRange };
struct SequenceData {
  Items items;
  int nesting = 1;
};
struct Sequence {
  SequenceKind kind;
  std::shared_ptr<const SequenceData> data;
};
struct DictData {
  Entries entries;  // in order of insertion, keys distinct
  int nesting = 1;
};
struct Dict {
  std::shared_ptr<const DictData> data;
};
// dict.keys(), dict.values(), dict.items().
enum class ViewKind { kKeys, kValues, kItems };
struct View {
  ViewKind kind;
  std::shared_ptr<const DictData> data;
};
// A generator: elements are made when asked for, once. nullopt at the end.
struct Stream {
  std::function<absl::StatusOr<std::optional<Value>>()> next;
  int nesting = 1;
};
struct NamespaceData;  // evaluator.h
class LoopState;       // loop.h
struct MacroData;      // evaluator.h
struct FunctionEntry;  // native.h
struct BoundMethod;

class Value {
 public:
  using Data = std::variant<Undefined, None, bool, int64_t, double, String, Sequence, Dict, View,
                            std::shared_ptr<Stream>, NamespaceData*, LoopState*, const MacroData*,
                            const FunctionEntry*, std::shared_ptr<const BoundMethod>>;

  Value() = default;  // a slot never assigned
  template <typename T>
  static Value Of(T data) {
    Value value;
    value.data_ = std::move(data);
    return value;
  }
  static Value NoneValue() { return Of(None{}); }
  static Value Bool(bool value) { return Of(value); }
  static Value Int(int64_t value) { return Of(value); }
  static Value UndefinedValue(std::string why);
  // Without a budget: for constants of a template and texts of the interpreter's own.
  static Value Text(std::string text);

  const Data& data() const { return data_; }
  template <typename T>
  const T* As() const {
    return std::get_if<T>(&data_);
  }
  bool IsMissing() const;  // a slot never assigned
  bool IsUndefined() const { return As<Undefined>() != nullptr; }
  bool IsNone() const { return As<None>() != nullptr; }
  bool IsString() const { return As<String>() != nullptr; }
  // REQUIRES: IsString().
  const std::string& text() const { return *As<String>()->text; }

 private:
  Data data_;
};

// A method of a value, not yet called.
struct BoundMethod {
  Value self;
  const FunctionEntry* function;
  int nesting;
};

// An int, or a bool as 0 or 1, as Python has it.
std::optional<int64_t> AsInt(const Value& value);
// Any number.
std::optional<double> AsDouble(const Value& value);
const Items* AsItems(const Value& value);      // of a list, tuple or range
const Entries* AsEntries(const Value& value);  // of a dict

// Makers that pay. Errors: the budget's; kBadRequest for nesting beyond kValueNestingMax.
absl::StatusOr<Value> MakeText(std::string text, Budget& budget);
absl::StatusOr<Value> MakeSequence(SequenceKind kind, Items items, Budget& budget);
absl::StatusOr<Value> MakeList(Items items, Budget& budget);
absl::StatusOr<Value> MakeTuple(Items items, Budget& budget);
// Later entries replace earlier ones of an equal key. Errors: a key that cannot be hashed.
absl::StatusOr<Value> MakeDict(Entries entries, Budget& budget);
// `sources`: what `next` holds on to.
absl::StatusOr<Value> MakeStream(std::function<absl::StatusOr<std::optional<Value>>()> next,
                                 const Items& sources);
absl::StatusOr<Value> MakeMethod(const Value& self, const FunctionEntry* function);
absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, Budget& budget);

// "str", "list", "NoneType", ...: Python's name of the type, for error texts.
std::string_view TypeName(const Value& value);

bool Truth(const Value& value);

// The error of a use that `value` does not allow. An undefined value says why it is undefined.
absl::Status TypeError(std::string_view what, const Value& value);
// kBadRequest; the evaluator puts the line in front.
absl::Status RenderError(std::string_view what);

}  // namespace octavo::jinja
