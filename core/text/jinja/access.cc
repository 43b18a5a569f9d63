// What is inside a value: attributes, items and slices.

#include <array>

#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/format.h"
#include "core/text/jinja/iterate.h"
#include "core/text/jinja/native.h"
#include "core/text/jinja/operators.h"
#include "core/text/jinja/state.h"
#include "core/text/jinja/strings.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

std::string TypeText(const Value& value) {
  return value.IsNone() ? "None" : fmt::format("'{} object'", TypeName(value));
}

Value NoAttribute(const Value& object, std::string_view name) {
  return Value::UndefinedValue(fmt::format("{} has no attribute '{}'", TypeText(object), name));
}

// Of numbers: values, not methods.
bool IsNumberField(std::string_view name) {
  return name == "real" || name == "imag" || name == "numerator" || name == "denominator";
}

// The attribute in Python's sense; nullopt if there is none.
absl::StatusOr<std::optional<Value>> FindAttribute(const Value& object, std::string_view name,
                                                   Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(budget.Spend(1));
  if (object.IsUndefined()) return TypeError("", object);
  if (const auto* data = object.As<NamespaceData*>()) {
    const Value* found = FindText((*data)->attributes, name);
    return found == nullptr ? std::nullopt : std::optional(*found);
  }
  if (const auto* loop = object.As<LoopState*>()) return (*loop)->Attribute(object, name);
  if (const FunctionEntry* method = FindMethod(object, name)) {
    if (object.IsString() && object.As<String>()->safe) {
      return RenderError(fmt::format("{}() of a string marked safe is not handled", name));
    }
    OCTAVO_ASSIGN_OR_RETURN(Value bound, MakeMethod(object, method));
    return bound;
  }
  if (IsForbiddenMethod(object, name)) {
    return Value::UndefinedValue(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, TypeName(object)));
  }
  const bool number = AsDouble(object).has_value();
  const bool omitted = (object.IsString() || number) && IsOmittedMethod(name);
  const bool from_keys = AsEntries(object) != nullptr && name == "fromkeys";
  if (omitted || from_keys || (number && IsNumberField(name)) ||
      (object.As<const MacroData*>() != nullptr && (name == "name" || name == "arguments"))) {
    return RenderError(
        fmt::format("the attribute '{}' of a {} is not handled", name, TypeName(object)));
  }
  return std::nullopt;
}

// The item of a list or text at an index that counts from the end if it is negative.
absl::StatusOr<std::optional<Value>> ItemAt(const Value& object, int64_t index, Budget& budget) {
  if (const Items* items = AsItems(object)) {
    const auto size = static_cast<int64_t>(items->size());
    if (index < 0) index += size;
    if (index < 0 || index >= size) return std::nullopt;
    return (*items)[static_cast<size_t>(index)];
  }
  const std::string& text = object.text();
  OCTAVO_RETURN_IF_ERROR(budget.SpendBytes(2 * text.size()));
  if (index < 0) index += CountCharacters(text);
  if (index < 0) return std::nullopt;
  const size_t begin = ByteOf(text, index);
  if (begin >= text.size()) return std::nullopt;
  const size_t size = DecodeUtf8(std::string_view(text).substr(begin)).size;
  OCTAVO_ASSIGN_OR_RETURN(Value item, MakeText(text.substr(begin, size), budget));
  return item;
}

absl::StatusOr<std::optional<Value>> FindItem(const Value& object, const Value& index,
                                              Budget& budget) {
  if (const Entries* entries = AsEntries(object)) {
    if (!CheckHashable(index).ok()) return std::nullopt;
    OCTAVO_ASSIGN_OR_RETURN(const size_t found, FindKey(*entries, index, budget));
    if (found == entries->size()) return std::nullopt;
    return (*entries)[found].second;
  }
  const auto integer = AsInt(index);
  if ((!object.IsString() && AsItems(object) == nullptr) || !integer) return std::nullopt;
  return ItemAt(object, *integer, budget);
}

// A part of a slice, clamped to [low, high].
absl::StatusOr<int64_t> Bound(const Value& part, int64_t size, int64_t otherwise, int64_t low,
                              int64_t high) {
  if (part.IsNone()) return otherwise;
  const auto integer = AsInt(part);
  if (!integer) return TypeError("slice indices must be integers or none", part);
  int64_t value = *integer;
  if (value < 0) value = value < -size ? low : value + size;
  return std::clamp(value, low, high);
}

}  // namespace

absl::StatusOr<Value> GetAttribute(const Value& object, std::string_view name, Budget& budget) {
  OCTAVO_ASSIGN_OR_RETURN(auto found, FindAttribute(object, name, budget));
  if (found) return *std::move(found);
  if (const Entries* entries = AsEntries(object)) {
    OCTAVO_RETURN_IF_ERROR(budget.SpendItems(entries->size()));
    if (const Value* value = FindText(*entries, name)) return *value;
  }
  return NoAttribute(object, name);
}

absl::StatusOr<Value> GetAttributeOnly(const Value& object, std::string_view name, Budget& budget) {
  OCTAVO_ASSIGN_OR_RETURN(auto found, FindAttribute(object, name, budget));
  return found ? *std::move(found) : NoAttribute(object, name);
}

absl::StatusOr<Value> GetItem(const Value& object, const Value& index, Budget& budget) {
  OCTAVO_RETURN_IF_ERROR(budget.Spend(1));
  if (object.IsUndefined()) return TypeError("", object);
  OCTAVO_ASSIGN_OR_RETURN(auto item, FindItem(object, index, budget));
  if (item) return *std::move(item);
  if (index.IsString()) {
    OCTAVO_ASSIGN_OR_RETURN(auto attribute, FindAttribute(object, index.text(), budget));
    return attribute ? *std::move(attribute) : NoAttribute(object, index.text());
  }
  return Value::UndefinedValue(fmt::format("{} has no such element", TypeText(object)));
}

absl::StatusOr<Value> GetSlice(const Value& object, const SliceParts& parts, Budget& budget) {
  const auto* sequence = object.As<Sequence>();
  if (!object.IsString() && sequence == nullptr) {
    return TypeError("an object that cannot be sliced", object);
  }
  int64_t step = 1;
  if (!parts.step.IsNone()) {
    const auto integer = AsInt(parts.step);
    if (!integer) return TypeError("slice indices must be integers or none", parts.step);
    if (*integer == 0) return RenderError("slice step cannot be zero");
    step = std::max(*integer, -INT64_MAX);
  }
  if (object.IsString()) OCTAVO_RETURN_IF_ERROR(budget.SpendBytes(2 * object.text().size()));
  const int64_t size = *Length(object);
  const bool back = step < 0;
  const int64_t low = back ? -1 : 0;
  const int64_t high = back ? size - 1 : size;
  OCTAVO_ASSIGN_OR_RETURN(const int64_t start,
                          Bound(parts.start, size, back ? high : low, low, high));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t stop,
                          Bound(parts.stop, size, back ? low : high, low, high));
  if (object.IsString() && step == 1) {
    const std::string& text = object.text();
    const size_t begin = ByteOf(text, start);
    const size_t length = stop <= start ? 0 : ByteOf(text.substr(begin), stop - start);
    return MakeText(text.substr(begin, length), budget);
  }
  Items items;
  std::string text;
  std::vector<std::string_view> characters;
  if (object.IsString()) {
    OCTAVO_RETURN_IF_ERROR(budget.Make(object.text().size() * sizeof(std::string_view)));
    characters = Characters(object.text());
  }
  const uint64_t stride = back ? static_cast<uint64_t>(-step) : static_cast<uint64_t>(step);
  const int64_t span = back ? start - stop : stop - start;
  for (uint64_t at = 0; span > 0 && at < static_cast<uint64_t>(span); at += stride) {
    const int64_t i = back ? start - static_cast<int64_t>(at) : start + static_cast<int64_t>(at);
    if (object.IsString()) {
      text += characters[static_cast<size_t>(i)];
    } else {
      items.push_back(sequence->data->items[static_cast<size_t>(i)]);
    }
    if (stride >= static_cast<uint64_t>(span)) break;
  }
  if (object.IsString()) return MakeText(std::move(text), budget);
  return MakeSequence(sequence->kind, std::move(items), budget);
}

}  // namespace octavo::jinja
