// Filters on numbers, and those that read numbers from text.

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "core/base/status.h"
#include "core/text/jinja/native.h"
#include "core/text/jinja/operators.h"
#include "core/text/jinja/strings.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

using Result = absl::StatusOr<Value>;

// `text` without the underscores that Python allows between digits; nullopt where they stand
// elsewhere.
std::optional<std::string> WithoutUnderscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const bool between = i > 0 && i + 1 < text.size() && std::isalnum(text[i - 1] & 0x7f) != 0 &&
                         std::isalnum(text[i + 1] & 0x7f) != 0;
    if (!between) return std::nullopt;
  }
  return out;
}

// The sign and the digits of a number in text.
struct Signed {
  bool negative = false;
  std::string digits;
};

std::optional<Signed> ReadSign(std::string_view text) {
  text = Strip(text);
  Signed number;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    number.negative = text[0] == '-';
    text.remove_prefix(1);
  }
  auto digits = WithoutUnderscores(text);
  if (!digits || digits->empty() || (*digits)[0] == '-' || (*digits)[0] == '+') {
    return std::nullopt;
  }
  number.digits = *std::move(digits);
  return number;
}

// int(text, base); nullopt for text that is no number. Errors: beyond 64 bits.
absl::StatusOr<std::optional<int64_t>> ReadInt(std::string_view text, int64_t base) {
  auto number = ReadSign(text);
  if (!number) return std::nullopt;
  std::string& digits = number->digits;
  if (digits.size() > 2 && digits[0] == '0') {
    const char mark = static_cast<char>(std::tolower(digits[1]));
    const int64_t marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked != 0 && (base == marked || base == 0)) {
      base = marked;
      digits = digits.substr(2);
    }
  }
  if (base == 0) base = 10;
  if (base < 2 || base > 36) return RenderError("a base for integers is 0 or 2 to 36");
  if (number->negative) digits.insert(digits.begin(), '-');
  int64_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value, static_cast<int>(base));
  if (stop != end || error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) return RenderError("an integer beyond 64 bits");
  return value;
}

// float(text).
std::optional<double> ReadFloat(std::string_view text) {
  const auto number = ReadSign(text);
  if (!number) return std::nullopt;
  double value = 0;
  const char* begin = number->digits.data();
  const char* end = begin + number->digits.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (stop != end || number->digits.find('(') != std::string::npos) return std::nullopt;
  if (error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) value = std::strtod(begin, nullptr);
  return number->negative ? -value : value;
}

absl::StatusOr<std::optional<int64_t>> Truncated(double number) {
  if (!std::isfinite(number)) return std::nullopt;
  if (std::abs(number) >= 9223372036854775808.0) return RenderError("an integer beyond 64 bits");
  return static_cast<int64_t>(number);
}

Result IntFilter(const Value& self, const BoundArguments& arguments, const NativeContext&) {
  if (self.IsUndefined()) return TypeError("", self);
  const Value otherwise = arguments.Has(0) ? arguments[0] : Value::Int(0);
  OCTAVO_ASSIGN_OR_RETURN(const int64_t base, arguments.Int(1, 10));
  std::optional<int64_t> value = AsInt(self);
  std::optional<double> number;
  if (self.IsString()) {
    OCTAVO_ASSIGN_OR_RETURN(value, ReadInt(self.text(), base));
    if (!value) number = ReadFloat(self.text());
  } else if (!value) {
    number = AsDouble(self);
    if (number && std::isinf(*number)) return RenderError("cannot convert infinity to an integer");
  }
  if (number) {
    OCTAVO_ASSIGN_OR_RETURN(value, Truncated(*number));
  }
  return value ? Value::Int(*value) : otherwise;
}

Result FloatFilter(const Value& self, const BoundArguments& arguments, const NativeContext&) {
  if (self.IsUndefined()) return TypeError("", self);
  std::optional<double> value = AsDouble(self);
  if (self.IsString()) value = ReadFloat(self.text());
  if (value) return Value::Of(*value);
  return arguments.Has(0) ? arguments[0] : Value::Of(0.0);
}

Result Abs(const Value& self, const BoundArguments&, const NativeContext&) {
  if (const auto* number = self.As<double>()) return Value::Of(std::abs(*number));
  const auto integer = AsInt(self);
  if (!integer) return TypeError("abs: a number is needed", self);
  return *integer < 0 ? ApplyUnary(UnaryOp::kNegative, self) : Value::Int(*integer);
}

// Half to even of the exact binary value, as printf and Python's round() have it.
Result RoundCommon(const Value& self, int64_t precision) {
  if (const auto integer = AsInt(self); integer && precision >= 0) return Value::Int(*integer);
  const auto* number = self.As<double>();
  if (number == nullptr && !AsInt(self)) return TypeError("round: a number is needed", self);
  if (precision < 0) return RenderError("round: a negative precision is not handled");
  if (precision > 300 || !std::isfinite(*number)) return self;
  const std::string text = fmt::format("{:.{}f}", *number, static_cast<int>(precision));
  return Value::Of(std::strtod(text.c_str(), nullptr));
}

Result Round(const Value& self, const BoundArguments& arguments, const NativeContext& context) {
  OCTAVO_ASSIGN_OR_RETURN(const int64_t precision, arguments.Int(0, 0));
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view method, arguments.Text(1, "common"));
  if (method == "common") return RoundCommon(self, precision);
  if (method != "ceil" && method != "floor") {
    return RenderError("round: method must be common, ceil or floor");
  }
  if (!AsDouble(self)) return TypeError("round: a number is needed", self);
  OCTAVO_ASSIGN_OR_RETURN(const Value scale, ApplyBinary(BinaryOp::kPower, Value::Int(10),
                                                         Value::Int(precision), context.budget));
  OCTAVO_ASSIGN_OR_RETURN(const Value scaled,
                          ApplyBinary(BinaryOp::kMultiply, self, scale, context.budget));
  const double number = *AsDouble(scaled);
  OCTAVO_ASSIGN_OR_RETURN(const auto whole,
                          Truncated(method == "ceil" ? std::ceil(number) : std::floor(number)));
  if (!whole) return RenderError("round: the number is not finite");
  return ApplyBinary(BinaryOp::kDivide, Value::Int(*whole), scale, context.budget);
}

constexpr auto kNumberFilters = std::to_array<FunctionEntry>({
    {"int", "default base", 0, IntFilter},
    {"float", "default", 0, FloatFilter},
    {"abs", "", 0, Abs},
    {"round", "precision method", 0, Round},
});

}  // namespace

std::span<const FunctionEntry> NumberFilters() { return kNumberFilters; }

}  // namespace octavo::jinja
