#pragma once

// The operators of expressions on values, and access to what is inside a value.

#include "absl/status/statusor.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

enum class BinaryOp { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class UnaryOp { kNot, kNegative, kPositive };

// Errors: types that do not go together, division by zero, an integer beyond 64 bits.
absl::StatusOr<Value> ApplyBinary(BinaryOp op, const Value& left, const Value& right,
                                  Budget& budget);
absl::StatusOr<Value> ApplyUnary(UnaryOp op, const Value& operand);

// object.name: an attribute or method, else the item of that name, else undefined. Errors: where
// `object` is undefined itself.
absl::StatusOr<Value> GetAttribute(const Value& object, std::string_view name, Budget& budget);
// object[index]: the item, else the attribute, else undefined.
absl::StatusOr<Value> GetItem(const Value& object, const Value& index, Budget& budget);
// The attribute only, as the filter attr has it.
absl::StatusOr<Value> GetAttributeOnly(const Value& object, std::string_view name, Budget& budget);

// object[start:stop:step]; null or none where a part is left out. Errors: no sequence, no integers.
struct SliceParts {
  Value start = Value::NoneValue();
  Value stop = Value::NoneValue();
  Value step = Value::NoneValue();
};
absl::StatusOr<Value> GetSlice(const Value& object, const SliceParts& parts, Budget& budget);

}  // namespace octavo::jinja
