#include <array>
#include <cmath>
#include <cstdio>

#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/format.h"
#include "core/text/jinja/strings.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

constexpr int64_t kWidthMax = 10'000;

// %(name)-08.3f, read.
struct Conversion {
  std::optional<std::string> name;
  bool left = false;
  bool sign = false;
  bool blank = false;
  bool zero = false;
  bool alternate = false;
  int64_t width = 0;
  std::optional<int64_t> precision;
  char kind = 0;
};

// What Python takes for a mapping here, of which nothing need be used.
bool IsMappingLike(const Value& value) {
  return AsEntries(value) != nullptr || AsItems(value) != nullptr || value.IsUndefined();
}

class PercentFormatter {
 public:
  PercentFormatter(std::string_view format, const Value& arguments, Budget& budget)
      : rest_(format), arguments_(arguments), budget_(budget) {
    const auto* sequence = arguments.As<Sequence>();
    if (sequence != nullptr && sequence->kind == SequenceKind::kTuple) {
      tuple_ = &sequence->data->items;
    }
  }

  absl::StatusOr<std::string> Format() {
    std::string out;
    while (true) {
      const size_t mark = std::min(rest_.find('%'), rest_.size());
      OCTAVO_RETURN_IF_ERROR(budget_.Make(mark));
      out += rest_.substr(0, mark);
      rest_.remove_prefix(mark);
      if (rest_.empty()) break;
      rest_.remove_prefix(1);
      OCTAVO_ASSIGN_OR_RETURN(const Conversion conversion, Read());
      OCTAVO_ASSIGN_OR_RETURN(const std::string text, Convert(conversion));
      OCTAVO_RETURN_IF_ERROR(budget_.Make(text.size()));
      out += text;
    }
    const bool all_used = tuple_ != nullptr ? used_ == tuple_->size() : used_ > 0;
    if (!all_used && (tuple_ != nullptr || !IsMappingLike(arguments_))) {
      return RenderError("not all arguments converted during string formatting");
    }
    return out;
  }

 private:
  absl::StatusOr<char> Take() {
    if (rest_.empty()) return RenderError("incomplete format");
    const char c = rest_[0];
    rest_.remove_prefix(1);
    return c;
  }

  absl::StatusOr<int64_t> TakeNumber() {
    int64_t number = 0;
    while (!rest_.empty() && rest_[0] >= '0' && rest_[0] <= '9') {
      number = number * 10 + (rest_[0] - '0');
      if (number > kWidthMax) return RenderError("a width or precision too large");
      rest_.remove_prefix(1);
    }
    return number;
  }

  absl::StatusOr<Conversion> Read() {
    Conversion conversion;
    if (rest_.starts_with('(')) {
      const size_t end = rest_.find(')');
      if (end == rest_.npos) return RenderError("incomplete format key");
      conversion.name = std::string(rest_.substr(1, end - 1));
      rest_.remove_prefix(end + 1);
    }
    for (; !rest_.empty(); rest_.remove_prefix(1)) {
      const size_t flag = std::string_view("-+ 0#").find(rest_[0]);
      if (flag == std::string_view::npos) break;
      bool* const flags[] = {&conversion.left, &conversion.sign, &conversion.blank,
                             &conversion.zero, &conversion.alternate};
      *flags[flag] = true;
    }
    OCTAVO_ASSIGN_OR_RETURN(conversion.width, TakeNumber());
    if (rest_.starts_with('.')) {
      rest_.remove_prefix(1);
      OCTAVO_ASSIGN_OR_RETURN(conversion.precision, TakeNumber());
    }
    OCTAVO_ASSIGN_OR_RETURN(conversion.kind, Take());
    return conversion;
  }

  absl::StatusOr<Value> Argument(const Conversion& conversion) {
    if (conversion.name) {
      const Entries* entries = AsEntries(arguments_);
      if (entries == nullptr) return RenderError("format requires a mapping");
      ++used_;
      const Value* found = FindText(*entries, *conversion.name);
      if (found == nullptr) return RenderError(fmt::format("no key '{}'", *conversion.name));
      return *found;
    }
    if (tuple_ == nullptr && used_++ == 0) return arguments_;
    if (tuple_ != nullptr && used_ < tuple_->size()) return (*tuple_)[used_++];
    return RenderError("not enough arguments for format string");
  }

  absl::StatusOr<std::string> Convert(const Conversion& conversion) {
    if (conversion.kind == '%') return std::string("%");
    OCTAVO_ASSIGN_OR_RETURN(const Value value, Argument(conversion));
    switch (conversion.kind) {
      case 's':
      case 'r': {
        OCTAVO_ASSIGN_OR_RETURN(std::string text, conversion.kind == 's' ? ToText(value, budget_)
                                                                         : ToRepr(value, budget_));
        if (conversion.precision) text.resize(ByteOf(text, *conversion.precision));
        return Padded(conversion, "", std::move(text));
      }
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        return Integer(conversion, value);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        return Float(conversion, value);
      case 'c':
        return Character(conversion, value);
      default:
        return RenderError(fmt::format("unsupported format character '{}'", conversion.kind));
    }
  }

  static std::string SignOf(const Conversion& conversion, bool negative) {
    if (negative) return "-";
    if (conversion.sign) return "+";
    return conversion.blank ? " " : "";
  }

  // Fills up to the width: zeros after the sign, or spaces on one side.
  static std::string Padded(const Conversion& conversion, const std::string& sign,
                            std::string text) {
    const int64_t missing =
        conversion.width - CountCharacters(text) - static_cast<int64_t>(sign.size());
    const std::string fill(
        static_cast<size_t>(std::max<int64_t>(missing, 0)),
        conversion.zero && !conversion.left && NumberKind(conversion) ? '0' : ' ');
    if (conversion.left) return sign + text + fill;
    if (!fill.empty() && fill[0] == '0') return sign + fill + text;
    return fill + sign + text;
  }

  static bool NumberKind(const Conversion& conversion) {
    return conversion.kind != 's' && conversion.kind != 'r' && conversion.kind != 'c';
  }

  absl::StatusOr<std::string> Integer(const Conversion& conversion, const Value& value) {
    std::optional<int64_t> integer = AsInt(value);
    const auto* number = value.As<double>();
    const bool decimal = conversion.kind == 'd' || conversion.kind == 'i' || conversion.kind == 'u';
    if (!integer && number != nullptr && decimal && std::abs(*number) < 9e18) {
      integer = static_cast<int64_t>(*number);
    }
    if (!integer) return TypeError("a number is required for an integer format", value);
    const uint64_t size =
        *integer < 0 ? 0 - static_cast<uint64_t>(*integer) : static_cast<uint64_t>(*integer);
    std::string digits = fmt::format("{}", size);
    std::string sign = SignOf(conversion, *integer < 0);
    if (conversion.kind == 'x') digits = fmt::format("{:x}", size);
    if (conversion.kind == 'X') digits = fmt::format("{:X}", size);
    if (conversion.kind == 'o') digits = fmt::format("{:o}", size);
    const auto least = static_cast<size_t>(conversion.precision.value_or(0));
    if (digits.size() < least) digits.insert(0, least - digits.size(), '0');
    if (conversion.alternate && !decimal) sign += std::string("0") + conversion.kind;
    return Padded(conversion, sign, std::move(digits));
  }

  absl::StatusOr<std::string> Float(const Conversion& conversion, const Value& value) {
    const auto number = AsDouble(value);
    if (!number) return TypeError("a number is required for a float format", value);
    const double size = std::abs(*number);
    const std::string sign = SignOf(conversion, std::signbit(*number) && !std::isnan(*number));
    if (!std::isfinite(*number)) {
      const bool upper = conversion.kind < 'a';
      const char* text = std::isnan(*number) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf");
      return Padded(conversion, sign, text);
    }
    const std::string form =
        fmt::format("%{}.*{}", conversion.alternate ? "#" : "", conversion.kind);
    std::string text(static_cast<size_t>(conversion.precision.value_or(6)) + 400, '\0');
    const int length = std::snprintf(text.data(), text.size(), form.c_str(),
                                     static_cast<int>(conversion.precision.value_or(6)), size);
    text.resize(static_cast<size_t>(length));
    return Padded(conversion, sign, std::move(text));
  }

  static absl::StatusOr<std::string> Character(const Conversion& conversion, const Value& value) {
    std::string text;
    if (value.IsString() && CountCharacters(value.text()) == 1) {
      text = value.text();
    } else if (const auto code = AsInt(value);
               code && *code >= 0 && *code < 0x110000 && (*code < 0xd800 || *code >= 0xe000)) {
      AppendUtf8(static_cast<char32_t>(*code), &text);
    } else {
      return TypeError("%c requires an integer or one character", value);
    }
    return Padded(conversion, "", std::move(text));
  }

  std::string_view rest_;
  const Value& arguments_;
  Budget& budget_;
  const Items* tuple_ = nullptr;
  size_t used_ = 0;
};

}  // namespace

absl::StatusOr<std::string> FormatPercent(std::string_view format, const Value& arguments,
                                          Budget& budget) {
  return PercentFormatter(format, arguments, budget).Format();
}

}  // namespace octavo::jinja
