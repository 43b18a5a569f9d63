#include "core/text/jinja/operators.h"

#include <cmath>

#include "core/base/status.h"
#include "core/text/jinja/format.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

constexpr std::string_view kSigns[] = {"+", "-", "*", "/", "//", "%", "**"};

absl::Status Mismatch(BinaryOp op, const Value& left, const Value& right) {
  if (left.IsUndefined()) return TypeError("", left);
  if (right.IsUndefined()) return TypeError("", right);
  return RenderError(fmt::format("unsupported operand types for {}: '{}' and '{}'",
                                 kSigns[static_cast<int>(op)], TypeName(left), TypeName(right)));
}

absl::Status Overflow() { return RenderError("an integer beyond 64 bits"); }
absl::Status ByZero() { return RenderError("division by zero"); }

absl::StatusOr<Value> PowerOfInts(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return ByZero();
    return Value::Of(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base == 0 || base == 1) return Value::Int(exponent == 0 ? 1 : base);
  if (base == -1) return Value::Int(exponent % 2 == 0 ? 1 : -1);
  int64_t result = 1;
  for (; exponent > 0; --exponent) {  // ends in an overflow after 63 turns
    if (__builtin_mul_overflow(result, base, &result)) return Overflow();
  }
  return Value::Int(result);
}

absl::StatusOr<Value> OnInts(BinaryOp op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case BinaryOp::kAdd:
      if (__builtin_add_overflow(a, b, &result)) return Overflow();
      return Value::Int(result);
    case BinaryOp::kSubtract:
      if (__builtin_sub_overflow(a, b, &result)) return Overflow();
      return Value::Int(result);
    case BinaryOp::kMultiply:
      if (__builtin_mul_overflow(a, b, &result)) return Overflow();
      return Value::Int(result);
    case BinaryOp::kDivide:
      if (b == 0) return ByZero();
      return Value::Of(static_cast<double>(a) / static_cast<double>(b));
    case BinaryOp::kFloorDivide:
    case BinaryOp::kModulo: {
      if (b == 0) return ByZero();
      if (a == INT64_MIN && b == -1) {
        if (op == BinaryOp::kModulo) return Value::Int(0);
        return Overflow();
      }
      const bool down = a % b != 0 && (a < 0) != (b < 0);
      if (op == BinaryOp::kFloorDivide) return Value::Int(a / b - (down ? 1 : 0));
      return Value::Int(a % b + (down ? b : 0));
    }
    case BinaryOp::kPower:
      return PowerOfInts(a, b);
  }
  return Overflow();
}

double Modulo(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest == 0) return std::copysign(0.0, b);
  if ((rest < 0) != (b < 0)) rest += b;
  return rest;
}

// As CPython does it: through the remainder, so that it agrees with %.
double FloorDivide(double a, double b) {
  const double quotient = (a - Modulo(a, b)) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1 : floored;
}

absl::StatusOr<Value> OnDoubles(BinaryOp op, double a, double b) {
  switch (op) {
    case BinaryOp::kAdd:
      return Value::Of(a + b);
    case BinaryOp::kSubtract:
      return Value::Of(a - b);
    case BinaryOp::kMultiply:
      return Value::Of(a * b);
    case BinaryOp::kDivide:
      if (b == 0) return ByZero();
      return Value::Of(a / b);
    case BinaryOp::kFloorDivide:
      if (b == 0) return ByZero();
      return Value::Of(FloorDivide(a, b));
    case BinaryOp::kModulo:
      if (b == 0) return ByZero();
      return Value::Of(Modulo(a, b));
    case BinaryOp::kPower:
      break;
  }
  if (a == 0 && b < 0) return ByZero();
  if (a < 0 && b != std::floor(b)) return RenderError("complex numbers are not handled");
  const double power = std::pow(a, b);
  if (std::isinf(power) && !std::isinf(a) && !std::isinf(b)) {
    return RenderError("a power too large for a float");
  }
  return Value::Of(power);
}

absl::StatusOr<Value> AddTexts(const Value& left, const Value& right, Budget& budget) {
  const bool left_safe = left.As<String>()->safe;
  const bool right_safe = right.As<String>()->safe;
  OCTAVO_RETURN_IF_ERROR(budget.Make(left.text().size() + right.text().size()));
  if (!left_safe && !right_safe) return Value::Text(left.text() + right.text());
  const std::string a = left_safe ? left.text() : EscapeHtml(left.text());
  const std::string b = right_safe ? right.text() : EscapeHtml(right.text());
  OCTAVO_RETURN_IF_ERROR(budget.Make(a.size() + b.size()));
  return Value::Of(String{std::make_shared<const std::string>(a + b), true});
}

absl::StatusOr<Value> AddSequences(const Sequence& left, const Sequence& right, Budget& budget) {
  Items items = left.data->items;
  items.insert(items.end(), right.data->items.begin(), right.data->items.end());
  return MakeSequence(left.kind, std::move(items), budget);
}

absl::StatusOr<Value> Repeat(const Value& value, int64_t times, Budget& budget) {
  const size_t unit =
      value.IsString() ? value.text().size() : AsItems(value)->size() * sizeof(Value);
  const auto count = unit == 0 ? 0 : static_cast<size_t>(std::max<int64_t>(times, 0));
  // Saturates: the product may have no room in 64 bits.
  const bool too_much = count > static_cast<size_t>(kBytesMadeMax);
  OCTAVO_RETURN_IF_ERROR(budget.Make(too_much ? count : unit * count));
  if (value.IsString()) {
    if (value.As<String>()->safe) return RenderError("* on a string marked safe is not handled");
    std::string out;
    for (size_t i = 0; i < count; ++i) out += value.text();
    return Value::Text(std::move(out));
  }
  const Items& once = *AsItems(value);
  Items items;
  for (size_t i = 0; i < count; ++i) items.insert(items.end(), once.begin(), once.end());
  return MakeSequence(value.As<Sequence>()->kind, std::move(items), budget);
}

bool IsRepeatable(const Value& value) {
  const auto* sequence = value.As<Sequence>();
  return value.IsString() || (sequence != nullptr && sequence->kind != SequenceKind::kRange);
}

}  // namespace

absl::StatusOr<Value> ApplyBinary(BinaryOp op, const Value& left, const Value& right,
                                  Budget& budget) {
  const auto a = AsInt(left);
  const auto b = AsInt(right);
  if (a && b) return OnInts(op, *a, *b);
  const auto x = AsDouble(left);
  const auto y = AsDouble(right);
  if (x && y) return OnDoubles(op, *x, *y);
  if (op == BinaryOp::kAdd) {
    if (left.IsString() && right.IsString()) return AddTexts(left, right, budget);
    const auto* first = left.As<Sequence>();
    const auto* second = right.As<Sequence>();
    if (first != nullptr && second != nullptr && first->kind == second->kind &&
        first->kind != SequenceKind::kRange) {
      OCTAVO_RETURN_IF_ERROR(
          budget.SpendItems(first->data->items.size() + second->data->items.size()));
      return AddSequences(*first, *second, budget);
    }
  }
  if (op == BinaryOp::kMultiply) {
    if (IsRepeatable(left) && b) return Repeat(left, *b, budget);
    if (IsRepeatable(right) && a) return Repeat(right, *a, budget);
  }
  if (op == BinaryOp::kModulo && left.IsString()) {
    if (left.As<String>()->safe) return RenderError("% on a string marked safe is not handled");
    OCTAVO_ASSIGN_OR_RETURN(std::string text, FormatPercent(left.text(), right, budget));
    return Value::Text(std::move(text));
  }
  return Mismatch(op, left, right);
}

absl::StatusOr<Value> ApplyUnary(UnaryOp op, const Value& operand) {
  if (op == UnaryOp::kNot) return Value::Bool(!Truth(operand));
  const bool negative = op == UnaryOp::kNegative;
  if (const auto integer = AsInt(operand)) {
    if (negative && *integer == INT64_MIN) return Overflow();
    return Value::Int(negative ? -*integer : *integer);
  }
  if (const auto* number = operand.As<double>()) return Value::Of(negative ? -*number : *number);
  return TypeError(negative ? "a bad operand for -" : "a bad operand for +", operand);
}

}  // namespace octavo::jinja
