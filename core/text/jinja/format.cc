#include "core/text/jinja/format.h"

#include <array>
#include <charconv>
#include <cmath>

#include "core/base/status.h"
#include "core/text/jinja/unicode.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

// One text under construction, paid for when it grows.
class Writer {
 public:
  explicit Writer(Budget& budget) : budget_(budget) {}
  absl::Status Add(std::string_view text) {
    OCTAVO_RETURN_IF_ERROR(budget_.Make(text.size()));
    out_ += text;
    return absl::OkStatus();
  }
  std::string Take() { return std::move(out_); }
  Budget& budget() { return budget_; }

 private:
  Budget& budget_;
  std::string out_;
};

std::string QuotedRepr(std::string_view text) {
  const bool single = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = single ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = DecodeUtf8(text.substr(at));
    const char32_t code = next.state == Utf8State::kValid ? next.code : kReplacementChar;
    const std::string_view bytes = text.substr(at, next.size);
    at += next.size;
    if (code == '\\' || code == static_cast<char32_t>(quote)) {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\r') {
      out += "\\r";
    } else if (code == '\t') {
      out += "\\t";
    } else if (IsPrintable(code)) {
      out += bytes;
    } else if (code <= 0xff) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(code));
    } else if (code <= 0xffff) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(code));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(code));
    }
  }
  return out + quote;
}

absl::Status WriteRepr(const Value& value, Writer* out);

absl::Status WriteItems(const Items& items, Writer* out) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) OCTAVO_RETURN_IF_ERROR(out->Add(", "));
    OCTAVO_RETURN_IF_ERROR(WriteRepr(items[i], out));
  }
  return absl::OkStatus();
}

absl::Status WriteSequence(const Sequence& sequence, Writer* out) {
  const Items& items = sequence.data->items;
  switch (sequence.kind) {
    case SequenceKind::kList:
      OCTAVO_RETURN_IF_ERROR(out->Add("["));
      OCTAVO_RETURN_IF_ERROR(WriteItems(items, out));
      return out->Add("]");
    case SequenceKind::kTuple:
      OCTAVO_RETURN_IF_ERROR(out->Add("("));
      OCTAVO_RETURN_IF_ERROR(WriteItems(items, out));
      return out->Add(items.size() == 1 ? ",)" : ")");
    case SequenceKind::kRange:
      break;
  }
  return RenderError("the text of a range is not handled");
}

absl::Status WriteDict(const Entries& entries, Writer* out) {
  OCTAVO_RETURN_IF_ERROR(out->Add("{"));
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) OCTAVO_RETURN_IF_ERROR(out->Add(", "));
    OCTAVO_RETURN_IF_ERROR(WriteRepr(entries[i].first, out));
    OCTAVO_RETURN_IF_ERROR(out->Add(": "));
    OCTAVO_RETURN_IF_ERROR(WriteRepr(entries[i].second, out));
  }
  return out->Add("}");
}

absl::Status WriteView(const View& view, Writer* out) {
  const Entries& entries = view.data->entries;
  OCTAVO_RETURN_IF_ERROR(out->Add(fmt::format("{}([", TypeName(Value::Of(view)))));
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto& [key, value] = entries[i];
    if (i > 0) OCTAVO_RETURN_IF_ERROR(out->Add(", "));
    if (view.kind == ViewKind::kItems) OCTAVO_RETURN_IF_ERROR(out->Add("("));
    if (view.kind != ViewKind::kValues) OCTAVO_RETURN_IF_ERROR(WriteRepr(key, out));
    if (view.kind == ViewKind::kItems) OCTAVO_RETURN_IF_ERROR(out->Add(", "));
    if (view.kind != ViewKind::kKeys) OCTAVO_RETURN_IF_ERROR(WriteRepr(value, out));
    if (view.kind == ViewKind::kItems) OCTAVO_RETURN_IF_ERROR(out->Add(")"));
  }
  return out->Add("])");
}

absl::Status WriteRepr(const Value& value, Writer* out) {
  OCTAVO_RETURN_IF_ERROR(out->budget().Spend(1));
  if (const auto* string = value.As<String>()) {
    if (!string->safe) return out->Add(QuotedRepr(*string->text));
    return out->Add(fmt::format("Markup({})", QuotedRepr(*string->text)));
  }
  if (const auto* sequence = value.As<Sequence>()) return WriteSequence(*sequence, out);
  if (const Entries* entries = AsEntries(value)) return WriteDict(*entries, out);
  if (const auto* view = value.As<View>()) return WriteView(*view, out);
  if (value.IsUndefined()) return out->Add("Undefined");
  if (value.IsNone()) return out->Add("None");
  if (const auto* boolean = value.As<bool>()) return out->Add(*boolean ? "True" : "False");
  if (const auto* integer = value.As<int64_t>()) return out->Add(fmt::format("{}", *integer));
  if (const auto* number = value.As<double>()) return out->Add(FloatText(*number));
  return RenderError(fmt::format("a value of type '{}' has no text", TypeName(value)));
}

}  // namespace

absl::StatusOr<std::string> ToText(const Value& value, Budget& budget) {
  if (value.IsUndefined()) return std::string();
  if (value.IsString()) {
    OCTAVO_RETURN_IF_ERROR(budget.Make(value.text().size()));
    return value.text();
  }
  return ToRepr(value, budget);
}

absl::StatusOr<std::string> ToRepr(const Value& value, Budget& budget) {
  Writer out(budget);
  OCTAVO_RETURN_IF_ERROR(WriteRepr(value, &out));
  return out.Take();
}

std::string FloatText(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  std::array<char, 64> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number,
                                 std::chars_format::scientific);
  const std::string_view scientific(buffer.data(), end.ptr - buffer.data());  // -d.ddde+dd
  const size_t mark = scientific.find('e');
  int exponent = 0;
  const char* digits_of_exponent = scientific.data() + mark + (scientific[mark + 1] == '+' ? 2 : 1);
  std::from_chars(digits_of_exponent, end.ptr, exponent);
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}e{}{:02}", scientific.substr(0, mark), exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  const auto fixed =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, std::chars_format::fixed);
  std::string text(buffer.data(), fixed.ptr);
  if (text.find('.') == text.npos) text += ".0";
  return text;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace octavo::jinja
