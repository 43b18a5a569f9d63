#pragma once

// Paths into values, as filters take them for their parameter `attribute`: "a.b.0".

#include "absl/status/statusor.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

// Follows a path of items; `otherwise` (if not none) stands in for what is undefined on the way.
absl::StatusOr<Value> FollowPath(const Value& value, const Value& path, Budget& budget,
                                 const Value& otherwise = Value::NoneValue());

// A generator over elements that are there already.
absl::StatusOr<Value> StreamOf(Items items, Budget& budget);

}  // namespace octavo::jinja
