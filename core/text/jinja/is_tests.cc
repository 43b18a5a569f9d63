// What may stand after "is".

#include <array>

#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/format.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/native.h"
#include "core/text/jinja/operators.h"
#include "core/text/jinja/unicode.h"

namespace octavo::jinja {
namespace {

using Result = absl::StatusOr<Value>;

template <bool (*holds)(const Value&)>
Result Plain(const Value& self, const BoundArguments&, const NativeContext&) {
  return Value::Bool(holds(self));
}

bool IsDefined(const Value& value) { return !value.IsUndefined(); }
bool IsUndefined(const Value& value) { return value.IsUndefined(); }
bool IsNone(const Value& value) { return value.IsNone(); }
bool IsBoolean(const Value& value) { return value.As<bool>() != nullptr; }
bool IsTrue(const Value& value) { return IsBoolean(value) && *value.As<bool>(); }
bool IsFalse(const Value& value) { return IsBoolean(value) && !*value.As<bool>(); }
bool IsInteger(const Value& value) { return value.As<int64_t>() != nullptr; }
bool IsFloat(const Value& value) { return value.As<double>() != nullptr; }
bool IsNumber(const Value& value) { return AsDouble(value).has_value(); }
bool IsString(const Value& value) { return value.IsString(); }
bool IsMapping(const Value& value) { return AsEntries(value) != nullptr; }
// What has a length and an item access, even one that fails, as undefined has.
bool IsSequence(const Value& value) {
  return value.IsUndefined() || value.IsString() || AsItems(value) != nullptr ||
         AsEntries(value) != nullptr;
}
bool IsCallable(const Value& value) {
  return value.As<const MacroData*>() != nullptr || value.As<const FunctionEntry*>() != nullptr ||
         value.As<std::shared_ptr<const BoundMethod>>() != nullptr ||
         value.As<LoopState*>() != nullptr || value.IsUndefined();
}
bool IsEscaped(const Value& value) { return value.IsString() && value.As<String>()->safe; }

template <int rest>
Result Parity(const Value& self, const BoundArguments&, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const Value modulo,
                          ApplyBinary(BinaryOp::kModulo, self, Value::Int(2), context.budget));
  OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(modulo, Value::Int(rest), context.budget));
  return Value::Bool(equal);
}

Result DivisibleBy(const Value& self, const BoundArguments& arguments,
                   const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const Value modulo,
                          ApplyBinary(BinaryOp::kModulo, self, arguments[0], context.budget));
  OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(modulo, Value::Int(0), context.budget));
  return Value::Bool(equal);
}

template <bool wanted>
Result EqualTo(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(self, arguments[0], context.budget));
  return Value::Bool(equal == wanted);
}

template <bool (*holds)(std::partial_ordering)>
Result Ordered(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const auto order, Order(self, arguments[0], context.budget));
  return Value::Bool(holds(order));
}

bool Less(std::partial_ordering order) { return order < 0; }
bool LessOrEqual(std::partial_ordering order) { return order <= 0; }
bool Greater(std::partial_ordering order) { return order > 0; }
bool GreaterOrEqual(std::partial_ordering order) { return order >= 0; }

Result In(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const bool found, Contains(arguments[0], self, context.budget));
  return Value::Bool(found);
}

Result Iterable(const Value& self, const BoundArguments&, const NativeContext&) {
  return Value::Bool(IsIterable(self) || self.As<LoopState*>() != nullptr);
}

// Of values that Python keeps only once, and of equal texts and numbers, which it may or may not.
Result SameAs(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  const Value& other = arguments[0];
  const bool single = self.IsNone() || other.IsNone() || IsBoolean(self) || IsBoolean(other);
  if (!single) return RenderError("'sameas' is handled for none, true and false only");
  if (self.data().index() != other.data().index()) return Value::Bool(false);
  OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(self, other, context.budget));
  return Value::Bool(equal);
}

template <Case to>
Result IsCase(const Value& self, const BoundArguments&, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(self, context.budget));
  constexpr Case kOther = to == Case::kLower ? Case::kUpper : Case::kLower;
  return Value::Bool(WithCase(text, to) == text && WithCase(text, kOther) != text);
}

constexpr auto kTests = std::to_array<FunctionEntry>({
    {"defined", "", 0, Plain<IsDefined>},
    {"undefined", "", 0, Plain<IsUndefined>},
    {"none", "", 0, Plain<IsNone>},
    {"boolean", "", 0, Plain<IsBoolean>},
    {"true", "", 0, Plain<IsTrue>},
    {"false", "", 0, Plain<IsFalse>},
    {"integer", "", 0, Plain<IsInteger>},
    {"float", "", 0, Plain<IsFloat>},
    {"number", "", 0, Plain<IsNumber>},
    {"string", "", 0, Plain<IsString>},
    {"mapping", "", 0, Plain<IsMapping>},
    {"sequence", "", 0, Plain<IsSequence>},
    {"iterable", "", 0, Iterable},
    {"callable", "", 0, Plain<IsCallable>},
    {"escaped", "", 0, Plain<IsEscaped>},
    {"odd", "", 0, Parity<1>},
    {"even", "", 0, Parity<0>},
    {"divisibleby", "num", 1, DivisibleBy},
    {"eq", "other", 1, EqualTo<true>},
    {"equalto", "other", 1, EqualTo<true>},
    {"==", "other", 1, EqualTo<true>},
    {"ne", "other", 1, EqualTo<false>},
    {"!=", "other", 1, EqualTo<false>},
    {"lt", "other", 1, Ordered<Less>},
    {"lessthan", "other", 1, Ordered<Less>},
    {"<", "other", 1, Ordered<Less>},
    {"le", "other", 1, Ordered<LessOrEqual>},
    {"<=", "other", 1, Ordered<LessOrEqual>},
    {"gt", "other", 1, Ordered<Greater>},
    {"greaterthan", "other", 1, Ordered<Greater>},
    {">", "other", 1, Ordered<Greater>},
    {"ge", "other", 1, Ordered<GreaterOrEqual>},
    {">=", "other", 1, Ordered<GreaterOrEqual>},
    {"in", "seq", 1, In},
    {"sameas", "other", 1, SameAs},
    {"lower", "", 0, IsCase<Case::kLower>},
    {"upper", "", 0, IsCase<Case::kUpper>},
});

}  // namespace

std::span<const FunctionEntry> Tests() { return kTests; }

}  // namespace octavo::jinja
