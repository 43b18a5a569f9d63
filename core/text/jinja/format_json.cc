#include <algorithm>
#include <cmath>

#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/format.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

class JsonWriter {
 public:
  JsonWriter(const JsonOptions& options, Budget& budget) : options_(options), budget_(budget) {}

  absl::Status Write(const Value& value) {
    OCTAVO_RETURN_IF_ERROR(budget_.Spend(1));
    if (value.IsString()) return WriteString(value.text());
    if (const auto* sequence = value.As<Sequence>();
        sequence != nullptr && sequence->kind != SequenceKind::kRange) {
      return WriteItems(sequence->data->items);
    }
    if (const Entries* entries = AsEntries(value)) return WriteEntries(*entries);
    const auto scalar = Scalar(value);
    if (!scalar) return TypeError("an object that has no form in JSON", value);
    return Add(*scalar);
  }

  std::string Take() { return std::move(out_); }

 private:
  absl::Status Add(std::string_view text) {
    OCTAVO_RETURN_IF_ERROR(budget_.Make(text.size()));
    out_ += text;
    return absl::OkStatus();
  }

  static std::optional<std::string> Scalar(const Value& value) {
    if (value.IsNone()) return "null";
    if (const auto* boolean = value.As<bool>()) return *boolean ? "true" : "false";
    if (const auto* integer = value.As<int64_t>()) return fmt::format("{}", *integer);
    const auto* number = value.As<double>();
    if (number == nullptr) return std::nullopt;
    if (std::isnan(*number)) return "NaN";
    if (std::isinf(*number)) return *number < 0 ? "-Infinity" : "Infinity";
    return FloatText(*number);
  }

  void AppendEscaped(char32_t code) {
    if (code <= 0xffff) {
      out_ += fmt::format("\\u{:04x}", static_cast<uint32_t>(code));
      return;
    }
    const uint32_t rest = static_cast<uint32_t>(code) - 0x10000;
    out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff));
  }

  absl::Status WriteString(std::string_view text) {
    OCTAVO_RETURN_IF_ERROR(budget_.Make(2 + text.size()));
    const size_t before = out_.size();
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const Utf8Char next = DecodeUtf8(text.substr(at));
      const char32_t code = next.state == Utf8State::kValid ? next.code : kReplacementChar;
      constexpr std::string_view kNamed = "\"\\\n\r\t\f\b";
      const size_t named = code < 0x80 ? kNamed.find(static_cast<char>(code)) : kNamed.npos;
      if (named != kNamed.npos) {
        out_ += '\\';
        out_ += "\"\\nrtfb"[named];
      } else if (code < 0x20 || (options_.ascii_only && code >= 0x7f)) {
        AppendEscaped(code);
      } else {
        out_ += text.substr(at, next.size);
      }
      at += next.size;
    }
    out_ += '"';
    const size_t grown = out_.size() - before;
    return grown > text.size() + 2 ? budget_.Make(grown - text.size() - 2) : absl::OkStatus();
  }

  // The line break and indentation before an item, or before the closing bracket.
  absl::Status NewLine(int level) {
    if (!options_.indent) return absl::OkStatus();
    OCTAVO_RETURN_IF_ERROR(Add("\n"));
    for (int i = 0; i < level; ++i) OCTAVO_RETURN_IF_ERROR(Add(*options_.indent));
    return absl::OkStatus();
  }

  absl::Status WriteItems(const Items& items) {
    if (items.empty()) return Add("[]");
    OCTAVO_RETURN_IF_ERROR(Add("["));
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) OCTAVO_RETURN_IF_ERROR(Add(options_.item_separator));
      OCTAVO_RETURN_IF_ERROR(NewLine(level_));
      OCTAVO_RETURN_IF_ERROR(Write(items[i]));
    }
    OCTAVO_RETURN_IF_ERROR(NewLine(--level_));
    return Add("]");
  }

  absl::StatusOr<std::vector<const std::pair<Value, Value>*>> Sorted(const Entries& entries) {
    std::vector<const std::pair<Value, Value>*> order;
    for (const auto& entry : entries) {
      if (options_.sort_keys && !entry.first.IsString()) {
        return RenderError("only keys of text can be sorted");
      }
      order.push_back(&entry);
    }
    OCTAVO_RETURN_IF_ERROR(budget_.SpendItems(entries.size()));
    if (options_.sort_keys) {
      std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
        return a->first.text() < b->first.text();
      });
    }
    return order;
  }

  absl::Status WriteEntries(const Entries& entries) {
    if (entries.empty()) return Add("{}");
    OCTAVO_ASSIGN_OR_RETURN(const auto order, Sorted(entries));
    OCTAVO_RETURN_IF_ERROR(Add("{"));
    ++level_;
    for (size_t i = 0; i < order.size(); ++i) {
      const auto& [key, value] = *order[i];
      if (i > 0) OCTAVO_RETURN_IF_ERROR(Add(options_.item_separator));
      OCTAVO_RETURN_IF_ERROR(NewLine(level_));
      const auto scalar = key.IsString() ? std::optional(key.text()) : Scalar(key);
      if (!scalar) return TypeError("a key that JSON does not have", key);
      OCTAVO_RETURN_IF_ERROR(WriteString(*scalar));
      OCTAVO_RETURN_IF_ERROR(Add(options_.key_separator));
      OCTAVO_RETURN_IF_ERROR(Write(value));
    }
    OCTAVO_RETURN_IF_ERROR(NewLine(--level_));
    return Add("}");
  }

  const JsonOptions& options_;
  Budget& budget_;
  std::string out_;
  int level_ = 0;
};

}  // namespace

absl::StatusOr<std::string> ToJson(const Value& value, const JsonOptions& options, Budget& budget) {
  JsonWriter writer(options, budget);
  OCTAVO_RETURN_IF_ERROR(writer.Write(value));
  return writer.Take();
}

}  // namespace octavo::jinja
