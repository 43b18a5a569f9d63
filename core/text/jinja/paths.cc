#include "core/text/jinja/paths.h"

#include <algorithm>
#include <charconv>

#include "core/base/status.h"
#include "core/text/jinja/operators.h"
#include "core/text/jinja/strings.h"

namespace octavo::jinja {
namespace {

// A part of digits is an index.
absl::StatusOr<Value> PartValue(std::string_view part, Budget& budget) {
  const bool digits = !part.empty() && std::all_of(part.begin(), part.end(),
                                                   [](char c) { return c >= '0' && c <= '9'; });
  if (!digits) return MakeText(std::string(part), budget);
  int64_t index = 0;
  if (std::from_chars(part.data(), part.data() + part.size(), index).ec != std::errc()) {
    return RenderError("an integer beyond 64 bits");
  }
  return Value::Int(index);
}

}  // namespace

absl::StatusOr<Value> FollowPath(const Value& value, const Value& path, Budget& budget,
                                 const Value& otherwise) {
  Items parts;
  if (path.IsString()) {
    for (const std::string_view part : Split(path.text(), ".", -1)) {
      OCTAVO_ASSIGN_OR_RETURN(Value index, PartValue(part, budget));
      parts.push_back(std::move(index));
    }
  } else if (!path.IsNone()) {
    parts.push_back(path);
  }
  Value at = value;
  for (const Value& part : parts) {
    OCTAVO_ASSIGN_OR_RETURN(at, GetItem(at, part, budget));
    if (at.IsUndefined() && !otherwise.IsNone()) at = otherwise;
  }
  return at;
}

absl::StatusOr<Value> StreamOf(Items items, Budget& budget) {
  OCTAVO_ASSIGN_OR_RETURN(const Value list, MakeList(std::move(items), budget));
  auto next = [list, at = size_t{0}]() mutable -> absl::StatusOr<std::optional<Value>> {
    const Items& all = *AsItems(list);
    if (at == all.size()) return std::nullopt;
    return all[at++];
  };
  return MakeStream(std::move(next), {list});
}

}  // namespace octavo::jinja
