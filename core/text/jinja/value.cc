#include "core/text/jinja/value.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

int NestingOf(const Value& value) {
  if (const auto* sequence = value.As<Sequence>()) return sequence->data->nesting;
  if (const auto* dict = value.As<Dict>()) return dict->data->nesting;
  if (const auto* view = value.As<View>()) return view->data->nesting;
  if (const auto* stream = value.As<std::shared_ptr<Stream>>()) return (*stream)->nesting;
  if (const auto* method = value.As<std::shared_ptr<const BoundMethod>>()) {
    return (*method)->nesting;
  }
  return 0;
}

absl::Status CheckNesting(int nesting) {
  if (nesting <= kValueNestingMax) return absl::OkStatus();
  return RenderError(fmt::format("a value nested deeper than {}", kValueNestingMax));
}

}  // namespace

Value Value::UndefinedValue(std::string why) {
  return Of(Undefined{std::make_shared<const std::string>(std::move(why))});
}

Value Value::Text(std::string text) {
  return Of(String{std::make_shared<const std::string>(std::move(text))});
}

bool Value::IsMissing() const {
  const auto* undefined = As<Undefined>();
  return undefined != nullptr && undefined->why == nullptr;
}

std::optional<int64_t> AsInt(const Value& value) {
  if (const auto* integer = value.As<int64_t>()) return *integer;
  if (const auto* boolean = value.As<bool>()) return *boolean ? 1 : 0;
  return std::nullopt;
}

std::optional<double> AsDouble(const Value& value) {
  if (const auto* number = value.As<double>()) return *number;
  if (const auto integer = AsInt(value)) return static_cast<double>(*integer);
  return std::nullopt;
}

const Items* AsItems(const Value& value) {
  const auto* sequence = value.As<Sequence>();
  return sequence == nullptr ? nullptr : &sequence->data->items;
}

const Entries* AsEntries(const Value& value) {
  const auto* dict = value.As<Dict>();
  return dict == nullptr ? nullptr : &dict->data->entries;
}

absl::StatusOr<Value> MakeText(std::string text, Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(budget.Make(text.size() + sizeof(std::string)));
  return Value::Text(std::move(text));
}

absl::StatusOr<Value> MakeSequence(SequenceKind kind, Items items, Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(budget.Make(items.size() * sizeof(Value) + sizeof(SequenceData)));
  int nesting = 1;
  for (const Value& item : items) nesting = std::max(nesting, NestingOf(item) + 1);
  OCTAVO_RETURN_IF_ERROR(CheckNesting(nesting));
  SequenceData data{.items = std::move(items), .nesting = nesting};
  return Value::Of(Sequence{kind, std::make_shared<const SequenceData>(std::move(data))});
}

absl::StatusOr<Value> MakeList(Items items, Budget& budget) {
  return MakeSequence(SequenceKind::kList, std::move(items), budget);
}

absl::StatusOr<Value> MakeTuple(Items items, Budget& budget) {
  return MakeSequence(SequenceKind::kTuple, std::move(items), budget);
}

absl::StatusOr<Value> MakeDict(Entries entries, Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(budget.Make(entries.size() * 2 * sizeof(Value) + sizeof(DictData)));
  DictData data;
  data.entries.reserve(entries.size());
  for (auto& [key, value] : entries) {
    OCTAVO_RETURN_IF_ERROR(CheckHashable(key));
    data.nesting = std::max({data.nesting, NestingOf(key) + 1, NestingOf(value) + 1});
    OCTAVO_ASSIGN_OR_RETURN(const size_t found, FindKey(data.entries, key, budget));
    if (found == data.entries.size()) {
      data.entries.emplace_back(std::move(key), std::move(value));
    } else {
      data.entries[found].second = std::move(value);
    }
  }
  OCTAVO_RETURN_IF_ERROR(CheckNesting(data.nesting));
  return Value::Of(Dict{std::make_shared<const DictData>(std::move(data))});
}

absl::StatusOr<Value> MakeStream(std::function<absl::StatusOr<std::optional<Value>>()> next,
                                 const Items& sources) {
  int nesting = 1;
  for (const Value& source : sources) nesting = std::max(nesting, NestingOf(source) + 1);
  OCTAVO_RETURN_IF_ERROR(CheckNesting(nesting));
  return Value::Of(std::make_shared<Stream>(Stream{std::move(next), nesting}));
}

absl::StatusOr<Value> MakeMethod(const Value& self, const FunctionEntry* function) {
  const int nesting = NestingOf(self) + 1;
  OCTAVO_RETURN_IF_ERROR(CheckNesting(nesting));
  return Value::Of(std::make_shared<const BoundMethod>(BoundMethod{self, function, nesting}));
}

namespace {

absl::StatusOr<Value> FromJsonAt(const nlohmann::ordered_json& json, int nesting, Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(CheckNesting(nesting));
  using Kind = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Kind::null:
      return Value::NoneValue();
    case Kind::boolean:
      return Value::Bool(json.get<bool>());
    case Kind::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX) return RenderError("an integer beyond 64 bits");
      return Value::Int(json.get<int64_t>());
    case Kind::number_integer:
      return Value::Int(json.get<int64_t>());
    case Kind::number_float:
      return Value::Of(json.get<double>());
    case Kind::string:
      return MakeText(json.get<std::string>(), budget);
    case Kind::array: {
      Items items;
      for (const auto& element : json) {
        OCTAVO_ASSIGN_OR_RETURN(Value item, FromJsonAt(element, nesting + 1, budget));
        items.push_back(std::move(item));
      }
      return MakeList(std::move(items), budget);
    }
    case Kind::object: {
      Entries entries;
      for (const auto& [name, member] : json.items()) {
        OCTAVO_ASSIGN_OR_RETURN(Value value, FromJsonAt(member, nesting + 1, budget));
        entries.emplace_back(Value::Text(name), std::move(value));
      }
      return MakeDict(std::move(entries), budget);
    }
    default:
      return RenderError("a JSON value of no known type");
  }
}

}  // namespace

absl::StatusOr<Value> FromJson(const nlohmann::ordered_json& json, Budget& budget) {
  return FromJsonAt(json, 0, budget);
}

std::string_view TypeName(const Value& value) {
  struct Namer {
    std::string_view operator()(const Undefined&) const { return "Undefined"; }
    std::string_view operator()(const None&) const { return "NoneType"; }
    std::string_view operator()(bool) const { return "bool"; }
    std::string_view operator()(int64_t) const { return "int"; }
    std::string_view operator()(double) const { return "float"; }
    std::string_view operator()(const String& string) const {
      return string.safe ? "Markup" : "str";
    }
    std::string_view operator()(const Sequence& sequence) const {
      if (sequence.kind == SequenceKind::kRange) return "range";
      return sequence.kind == SequenceKind::kList ? "list" : "tuple";
    }
    std::string_view operator()(const Dict&) const { return "dict"; }
    std::string_view operator()(const View& view) const {
      if (view.kind == ViewKind::kKeys) return "dict_keys";
      return view.kind == ViewKind::kValues ? "dict_values" : "dict_items";
    }
    std::string_view operator()(const std::shared_ptr<Stream>&) const { return "generator"; }
    std::string_view operator()(NamespaceData*) const { return "Namespace"; }
    std::string_view operator()(LoopState*) const { return "LoopContext"; }
    std::string_view operator()(const MacroData*) const { return "Macro"; }
    std::string_view operator()(const FunctionEntry*) const { return "function"; }
    std::string_view operator()(const std::shared_ptr<const BoundMethod>&) const {
      return "builtin_function_or_method";
    }
  };
  return std::visit(Namer(), value.data());
}

bool Truth(const Value& value) {
  struct Tester {
    bool operator()(const Undefined&) const { return false; }
    bool operator()(const None&) const { return false; }
    bool operator()(bool boolean) const { return boolean; }
    bool operator()(int64_t integer) const { return integer != 0; }
    bool operator()(double number) const { return number != 0; }
    bool operator()(const String& string) const { return !string.text->empty(); }
    bool operator()(const Sequence& sequence) const { return !sequence.data->items.empty(); }
    bool operator()(const Dict& dict) const { return !dict.data->entries.empty(); }
    bool operator()(const View& view) const { return !view.data->entries.empty(); }
    bool operator()(const std::shared_ptr<Stream>&) const { return true; }
    bool operator()(NamespaceData*) const { return true; }
    bool operator()(LoopState*) const { return true; }  // inside a loop its length is not 0
    bool operator()(const MacroData*) const { return true; }
    bool operator()(const FunctionEntry*) const { return true; }
    bool operator()(const std::shared_ptr<const BoundMethod>&) const { return true; }
  };
  return std::visit(Tester(), value.data());
}

absl::Status RenderError(std::string_view what) { return MakeError(Reason::kBadRequest, what); }

absl::Status TypeError(std::string_view what, const Value& value) {
  if (const auto* undefined = value.As<Undefined>()) {
    return RenderError(undefined->why == nullptr ? "a variable is undefined" : *undefined->why);
  }
  return RenderError(fmt::format("{}: '{}'", what, TypeName(value)));
}

}  // namespace octavo::jinja
